// /proc/PID/maps and /proc/PID/smaps: the VMAs of a task.
#pragma once

#include <sys/mman.h>
#include <sys/types.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace stasis::kernel {

// smaps' "VmFlags:" line, a set of two-letter codes: flags.has("gd").
class VmFlags {
 public:
  // A code that this table doesn't know doesn't compile.
  static consteval uint64_t bit(std::string_view code) {
    int index = find(code);
    if (index < 0) throw std::logic_error("no such VmFlags code");
    return uint64_t{1} << index;
  }

  class Code {
   public:
    // NOLINTNEXTLINE(google-explicit-constructor): flags.has("gd") is the point
    consteval Code(const char* code) : mask(bit(code)) {}
    const uint64_t mask;
  };
  bool has(Code code) const { return (known_ & code.mask) != 0; }

  bool empty() const { return known_ == 0 && unknown_.empty(); }
  const std::string& unknown() const { return unknown_; }  // codes newer than the table, by blanks
  void add(std::string_view code);

 private:
  static constexpr std::string_view codes =
      "rd wr ex sh mr mw me ms gd pf dw lo io sr rr dc de ac nr ht sf nl ar wf dd sd mm hg nh mg "
      "um uw ui ss sl dp lf mt bt gu sw";
  static constexpr int find(std::string_view code) {
    if (code.size() != 2) return -1;
    for (size_t i = 0; i < codes.size(); i += 3)
      if (codes.substr(i, 2) == code) return static_cast<int>(i / 3);
    return -1;
  }
  static_assert(codes.size() / 3 < 64);

  uint64_t known_ = 0;
  std::string unknown_;
};

struct MappedArea {
  uint64_t start = 0, end = 0;
  int prot = 0;         // PROT_READ | PROT_WRITE | PROT_EXEC
  bool shared = false;  // "s": may be shared; "p": private
  uint64_t offset = 0;  // bytes
  unsigned dev_major = 0, dev_minor = 0;
  uint64_t inode = 0;
  std::string path;  // as shown: "[heap]", "[anon:NAME]", "/lib/x", "/x (deleted)"; may be empty
  VmFlags flags;     // empty from plain maps

  uint64_t size() const { return end - start; }
};

// Either file's text. From smaps only the areas and their VmFlags are taken.
// The areas are in ascending order without overlap, or an Error is thrown.
std::vector<MappedArea> parse_maps(std::string_view text);
std::vector<MappedArea> parse_smaps(std::string_view text);  // VmFlags wanted on every area

}  // namespace stasis::kernel
