#include "engine/tasks/processor.h"

#include <fcntl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>

#include "base/text.h"
#include "engine/image/checkpoint.h"
#include "engine/image/image.h"
#include "kernel/fs.h"
#include "stasis.pb.h"

namespace stasis::engine::processor {

namespace {

// The other flags tell of what only kernels use, of speed, or of the kernel itself.
constexpr std::array<std::string_view, 78> known = {
    "3dnow",
    "3dnowext",
    "abm",
    "adx",
    "aes",
    "amx_bf16",
    "amx_fp16",
    "amx_int8",
    "amx_tile",
    "avx",
    "avx2",
    "avx512_4fmaps",
    "avx512_bf16",
    "avx512_bitalg",
    "avx512_fp16",
    "avx512_vbmi2",
    "avx512_vnni",
    "avx512_vp2intersect",
    "avx512_vpopcntdq",
    "avx512bw",
    "avx512cd",
    "avx512dq",
    "avx512er",
    "avx512f",
    "avx512ifma",
    "avx512vbmi",
    "avx512vl",
    "avx_ifma",
    "avx_ne_convert",
    "avx_vnni",
    "avx_vnni_int8",
    "bmi1",
    "bmi2",
    "cldemote",
    "clflush",
    "clflushopt",
    "clwb",
    "clzero",
    "cmov",
    "cmpccxadd",
    "cx16",
    "cx8",
    "enqcmd",
    "f16c",
    "fma",
    "fma4",
    "fsgsbase",
    "fxsr",
    "gfni",
    "lahf_lm",
    "misalignsse",
    "mmx",
    "movbe",
    "movdir64b",
    "movdiri",
    "mwaitx",
    "ospke",
    "pclmulqdq",
    "pni",
    "popcnt",
    "rdpid",
    "rdrand",
    "rdseed",
    "rdtscp",
    "rtm",
    "serialize",
    "sha_ni",
    "sse",
    "sse2",
    "sse4_1",
    "sse4_2",
    "sse4a",
    "ssse3",
    "tbm",
    "vaes",
    "vpclmulqdq",
    "xop",
    "xsave",
};

// One record for each processor: the first will do, as a machine with hundreds of
// them takes its time.
std::string first_record() {
  const std::string path = "/proc/cpuinfo";
  UniqueFd file = kernel::open(path, O_RDONLY);
  std::string text;
  while (text.find("\n\n") == text.npos) {
    char buffer[4096];
    long n = kernel::must(kernel::call(SYS_read, file.get(), buffer, sizeof buffer), "read", path);
    if (n == 0) break;
    text.append(buffer, static_cast<size_t>(n));
  }
  return text;
}

}  // namespace

std::set<std::string> instructions(std::string_view cpuinfo) {
  std::set<std::string> found;
  size_t record_end = cpuinfo.find("\n\n");
  cpuinfo = cpuinfo.substr(0, record_end);
  while (!cpuinfo.empty()) {
    std::string_view line = text::next(cpuinfo, '\n');
    size_t colon = line.find(':');
    if (colon == line.npos || text::trim(line.substr(0, colon)) != "flags") continue;
    for (std::string_view word : text::split(line.substr(colon + 1), ' '))
      if (std::binary_search(known.begin(), known.end(), word)) found.emplace(word);
  }
  return found;
}

void dump(image::ImageWriter& writer) {
  image::StasisEntry entry;
  for (const std::string& name : instructions(first_record())) entry.add_instructions(name);
  writer.append("stasis", entry);
}

std::string missing(const image::Checkpoint& checkpoint) {
  if (!checkpoint.more || checkpoint.more->instructions().empty()) return "";
  std::set<std::string> here = instructions(first_record());
  std::string lacks;
  for (const std::string& name : checkpoint.more->instructions())
    if (!here.contains(name)) lacks += (lacks.empty() ? "" : ", ") + name;
  return lacks;
}

}  // namespace stasis::engine::processor
