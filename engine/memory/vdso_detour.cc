#include "engine/memory/vdso_detour.h"

#include <elf.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstring>
#include <optional>

namespace stasis::engine {

namespace {

// Objects and texts within bytes that may claim anything.
class Bytes {
 public:
  explicit Bytes(std::span<const uint8_t> bytes) : bytes_(bytes) {}

  template <typename T>
  std::optional<T> get(uint64_t offset) const {
    if (offset > bytes_.size() || bytes_.size() - offset < sizeof(T)) return std::nullopt;
    T value{};
    memcpy(&value, bytes_.data() + offset, sizeof value);
    return value;
  }
  std::string text(uint64_t offset) const {
    if (offset >= bytes_.size()) return {};
    auto start = bytes_.begin() + static_cast<std::ptrdiff_t>(offset);
    return {start, std::find(start, bytes_.end(), uint8_t{0})};
  }

 private:
  std::span<const uint8_t> bytes_;
};

std::optional<Elf64_Shdr> section(const Bytes& bytes, const Elf64_Ehdr& header, uint64_t index) {
  if (index >= header.e_shnum || header.e_shentsize != sizeof(Elf64_Shdr)) return std::nullopt;
  return bytes.get<Elf64_Shdr>(header.e_shoff + index * sizeof(Elf64_Shdr));
}

std::optional<Elf64_Shdr> symbol_table(const Bytes& bytes, const Elf64_Ehdr& header) {
  for (uint64_t i = 0; auto found = section(bytes, header, i); ++i)
    if (found->sh_type == SHT_DYNSYM) return found;
  return std::nullopt;
}

// mov $nr, %eax; syscall; ret: the arguments are where both kinds of calls have them.
std::vector<uint8_t> system_call(uint32_t nr) {
  return {0xb8, static_cast<uint8_t>(nr), static_cast<uint8_t>(nr >> 8), 0, 0, 0x0f, 0x05, 0xc3};
}

// The state that a program keeps for the vdso's getrandom() is that of one kernel,
// so that never goes on in another's. Who asks for its size (fifth argument -1) is
// told that there is no such function.
std::vector<uint8_t> getrandom() {
  std::vector<uint8_t> code{0x49, 0x83, 0xf8, 0xff,  // cmp $-1, %r8
                            0x74, 0x08};             // je over the system call
  std::vector<uint8_t> call = system_call(SYS_getrandom);
  code.insert(code.end(), call.begin(), call.end());
  constexpr uint8_t refuse[] = {0x48, 0xc7, 0xc0, 0xda, 0xff, 0xff, 0xff,  // mov $-ENOSYS, %rax
                                0xc3};                                     // ret
  code.insert(code.end(), std::begin(refuse), std::end(refuse));
  return code;
}

// jmp *0(%rip); the address: no register is lost.
std::vector<uint8_t> jump(uint64_t address) {
  std::vector<uint8_t> code{0xff, 0x25, 0, 0, 0, 0};
  for (int byte = 0; byte < 8; ++byte) code.push_back(static_cast<uint8_t>(address >> 8 * byte));
  return code;
}

}  // namespace

std::map<std::string, VdsoFunction> vdso_functions(std::span<const uint8_t> vdso) {
  Bytes bytes(vdso);
  std::map<std::string, VdsoFunction> functions;
  auto header = bytes.get<Elf64_Ehdr>(0);
  if (!header || memcmp(header->e_ident, ELFMAG, SELFMAG) != 0) return functions;
  auto table = symbol_table(bytes, *header);
  if (!table) return functions;
  auto names = section(bytes, *header, table->sh_link);
  if (!names) return functions;
  for (uint64_t at = 0; at + sizeof(Elf64_Sym) <= table->sh_size; at += sizeof(Elf64_Sym)) {
    auto symbol = bytes.get<Elf64_Sym>(table->sh_offset + at);
    if (!symbol) break;
    std::string name = bytes.text(names->sh_offset + symbol->st_name);
    bool inside =
        symbol->st_value <= vdso.size() && symbol->st_size <= vdso.size() - symbol->st_value;
    // "clock_gettime" is the same as "__vdso_clock_gettime".
    if (ELF64_ST_TYPE(symbol->st_info) == STT_FUNC && name.starts_with("__vdso_") && inside)
      functions[name] = {symbol->st_value, symbol->st_size};
  }
  return functions;
}

std::vector<uint8_t> detour(const std::string& name, uint64_t ours) {
  static const std::map<std::string, uint32_t> calls{
      {"__vdso_clock_gettime", SYS_clock_gettime},
      {"__vdso_clock_getres", SYS_clock_getres},
      {"__vdso_gettimeofday", SYS_gettimeofday},
      {"__vdso_time", SYS_time},
      {"__vdso_getcpu", SYS_getcpu},
  };
  if (name == "__vdso_getrandom") return getrandom();
  if (ours != 0) return jump(ours);
  auto call = calls.find(name);
  return call == calls.end() ? std::vector<uint8_t>() : system_call(call->second);
}

}  // namespace stasis::engine
