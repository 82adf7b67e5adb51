#include "kernel/proc_fdinfo.h"

#include "kernel/proc_text.h"

namespace stasis::kernel {

const std::string* FdInfo::find(std::string_view key) const {
  for (const Line& line : lines)
    if (line.key == key) return &line.value;
  return nullptr;
}

FdInfo parse_fdinfo(std::string_view text) {
  constexpr std::string_view file = "fdinfo/N";
  FdInfo info;
  bool pos = false, flags = false, mount = false;
  while (!text.empty()) {
    std::string_view line = text::next(text, '\n');
    size_t end = line.find_first_of(": ");
    if (end == std::string_view::npos) continue;
    std::string_view key = line.substr(0, end), value = text::trim(line.substr(end + 1));
    if (key == "pos" && !pos) {
      // Printed signed; a driver may keep any 64 bits there.
      info.pos = proc_number<int64_t>(file, key, value);
      pos = true;
    } else if (key == "flags" && !flags) {
      info.flags = proc_number<int>(file, key, value, 8);
      flags = true;
    } else if (key == "mnt_id" && !mount) {
      info.mnt_id = proc_number<int>(file, key, value);
      mount = true;
    } else if (key == "ino" && !info.ino) {
      info.ino = proc_number<uint64_t>(file, key, value);
    } else {
      info.lines.push_back({std::string(key), std::string(value)});
    }
  }
  if (!pos) missing_field(file, "pos");
  if (!flags) missing_field(file, "flags");
  if (!mount) missing_field(file, "mnt_id");
  return info;
}

}  // namespace stasis::kernel
