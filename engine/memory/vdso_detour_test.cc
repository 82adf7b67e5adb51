#include "engine/memory/vdso_detour.h"

#include <elf.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>

#include "kernel/fs.h"
#include "kernel/proc_maps.h"

using namespace stasis;
using namespace stasis::engine;

namespace {

std::span<const uint8_t> our_vdso() {
  for (const auto& area : kernel::parse_maps(kernel::read_file("/proc/self/maps")))
    if (area.path == "[vdso]")
      return {reinterpret_cast<const uint8_t*>(area.start), area.end - area.start};
  return {};
}

// A copy of our vdso, as it would stand in a restored process.
class Copy {
 public:
  Copy() : vdso_(our_vdso()) {
    start_ = mmap(nullptr, vdso_.size(), PROT_READ | PROT_WRITE | PROT_EXEC,
                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(start_ != MAP_FAILED);
    memcpy(start_, vdso_.data(), vdso_.size());
  }
  ~Copy() { munmap(start_, vdso_.size()); }
  Copy(const Copy&) = delete;

  // Calls its function after the detour to `ours` (with `there`) or to a system call.
  template <typename... Args>
  long call(const std::string& name, bool there, Args... args) {
    auto functions = vdso_functions(vdso_);
    REQUIRE(functions.contains(name));
    VdsoFunction function = functions[name];
    auto code =
        detour(name, there ? reinterpret_cast<uint64_t>(vdso_.data()) + function.offset : 0);
    REQUIRE_FALSE(code.empty());
    REQUIRE(code.size() <= function.size);
    uint8_t* place = static_cast<uint8_t*>(start_) + function.offset;
    memcpy(place, code.data(), code.size());
    return reinterpret_cast<long (*)(Args...)>(place)(args...);
  }

 private:
  std::span<const uint8_t> vdso_;
  void* start_;
};

}  // namespace

TEST_CASE("The functions of this kernel's vdso are found") {
  auto functions = vdso_functions(our_vdso());
  for (const char* name : {"__vdso_clock_gettime", "__vdso_gettimeofday", "__vdso_time",
                           "__vdso_getcpu", "__vdso_clock_getres"}) {
    INFO(name);
    CHECK(functions.contains(name));
  }
  for (const auto& [name, function] : functions) CHECK(function.size > 0);
}

TEST_CASE("A copied vdso leads to the kernel's, or to system calls") {
  for (bool there : {true, false}) {
    Copy copy;
    timespec before{}, now{}, after{};
    clock_gettime(CLOCK_MONOTONIC, &before);
    CHECK(copy.call("__vdso_clock_gettime", there, CLOCK_MONOTONIC, &now) == 0);
    clock_gettime(CLOCK_MONOTONIC, &after);
    auto ns = [](const timespec& t) { return t.tv_sec * 1'000'000'000 + t.tv_nsec; };
    CHECK(ns(before) <= ns(now));
    CHECK(ns(now) <= ns(after));
    time_t seconds = 0;
    long told = copy.call("__vdso_time", there, &seconds);
    CHECK(told == seconds);
    CHECK(time(nullptr) - told <= 1);
    unsigned cpu = ~0u;
    CHECK(copy.call("__vdso_getcpu", there, &cpu, static_cast<unsigned*>(nullptr), nullptr) == 0);
    CHECK(cpu < static_cast<unsigned>(sysconf(_SC_NPROCESSORS_CONF)));
  }
}

TEST_CASE("A copied vdso's getrandom is the system call, and has no state") {
  if (!vdso_functions(our_vdso()).contains("__vdso_getrandom")) {
    WARN("not checked: Linux 6.11 brought the vdso's getrandom");
    return;
  }
  Copy copy;
  uint8_t bytes[32] = {};
  CHECK(copy.call("__vdso_getrandom", true, static_cast<void*>(bytes), sizeof bytes, 0u,
                  static_cast<void*>(nullptr), size_t{0}) == sizeof bytes);
  CHECK(std::any_of(std::begin(bytes), std::end(bytes), [](uint8_t byte) { return byte != 0; }));
  uint8_t params[64] = {};
  CHECK(copy.call("__vdso_getrandom", true, static_cast<void*>(nullptr), size_t{0}, 0u,
                  static_cast<void*>(params), ~size_t{0}) == -ENOSYS);
}

TEST_CASE("A function nobody knows has no detour but to its like") {
  CHECK(detour("__vdso_sgx_enter_enclave", 0).empty());
  CHECK_FALSE(detour("__vdso_sgx_enter_enclave", 4096).empty());
}

TEST_CASE("What is no vdso has no functions") {
  CHECK(vdso_functions({}).empty());
  std::vector<uint8_t> bytes(our_vdso().begin(), our_vdso().end());
  for (size_t size : {size_t{3}, sizeof(Elf64_Ehdr), bytes.size() / 2})
    vdso_functions(std::span(bytes).first(size));
  auto* header = reinterpret_cast<Elf64_Ehdr*>(bytes.data());
  header->e_shoff = ~uint64_t{0} - 10;
  CHECK(vdso_functions(bytes).empty());
  bytes[0] = 0;
  CHECK(vdso_functions(bytes).empty());
}
