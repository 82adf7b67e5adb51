#include "engine/tasks/processor.h"

#include <catch2/catch.hpp>

#include "kernel/fs.h"

namespace stasis::engine {

TEST_CASE("Of a processor's flags the instructions count") {
  const char* text =
      "processor\t: 0\n"
      "model name\t: flags : sse4a\n"
      "flags\t\t: fpu vme sse sse2 syscall nx constant_tsc pni avx2 md_clear\n"
      "vmx flags\t: xop\n"
      "bugs\t\t: spectre_v1\n\n"
      "processor\t: 1\n"
      "flags\t\t: sse avx512f\n\n";
  CHECK(processor::instructions(text) == std::set<std::string>{"sse", "sse2", "pni", "avx2"});
  CHECK(processor::instructions("").empty());
  CHECK(processor::instructions("flags").empty());
  // Every x86-64 has it.
  CHECK(processor::instructions(kernel::read_file("/proc/cpuinfo")).contains("sse2"));
  // The last of the table, and words that differ by a letter only.
  CHECK(processor::instructions("flags\t: 3dnow xsave xsavec sse4_3\n") ==
        std::set<std::string>{"3dnow", "xsave"});
}

}  // namespace stasis::engine
