#include "kernel/proc_limits.h"

#include <optional>

#include "kernel/proc_text.h"

namespace stasis::kernel {
namespace {

constexpr std::string_view file = "limits";

constexpr std::array<std::string_view, RLIM_NLIMITS> names = {
    "Max cpu time",       "Max file size",     "Max data size",         "Max stack size",
    "Max core file size", "Max resident set",  "Max processes",         "Max open files",
    "Max locked memory",  "Max address space", "Max file locks",        "Max pending signals",
    "Max msgqueue size",  "Max nice priority", "Max realtime priority", "Max realtime timeout",
};

uint64_t value_of(std::string_view name, std::string_view value) {
  if (value == "unlimited") return RLIM_INFINITY;
  return proc_number<uint64_t>(file, name, value);
}

std::optional<size_t> resource(std::string_view line) {
  for (size_t i = 0; i < names.size(); ++i)
    if (line.starts_with(names[i]) && line.substr(names[i].size()).starts_with(' ')) return i;
  return std::nullopt;
}

}  // namespace

ResourceLimits parse_limits(std::string_view text) {
  ResourceLimits limits;
  std::array<bool, RLIM_NLIMITS> seen{};
  while (!text.empty()) {
    std::string_view line = text::next(text, '\n');
    auto index = resource(line);
    if (!index) continue;  // the heading, or a limit newer than we are
    line.remove_prefix(names[*index].size());
    auto columns = text::words(line);
    if (columns.size() < 2) bad_field(file, names[*index], line);
    limits[*index] = {value_of(names[*index], columns[0]), value_of(names[*index], columns[1])};
    seen[*index] = true;
  }
  for (size_t i = 0; i < names.size(); ++i)
    if (!seen[i]) missing_field(file, names[i]);
  return limits;
}

}  // namespace stasis::kernel
