#include "kernel/proc_maps.h"

#include "kernel/proc_text.h"

namespace stasis::kernel {
namespace {

// A path is escaped only where it would break the line.
std::string unescape(std::string_view s) {
  std::string out;
  for (size_t at; (at = s.find("\\012")) != std::string_view::npos; s.remove_prefix(at + 4))
    out.append(s.substr(0, at)).append(1, '\n');
  return out.append(s);
}

template <typename Int>
Int hex(std::string_view file, std::string_view field, std::string_view value) {
  return proc_number<Int>(file, field, value, 16);
}

void parse_permissions(std::string_view file, std::string_view letters, MappedArea& area) {
  auto allowed = [&](size_t at, char letter) {
    if (letters[at] != letter && letters[at] != '-') bad_field(file, "permissions", letters);
    return letters[at] == letter;
  };
  if (letters.size() != 4 || (letters[3] != 's' && letters[3] != 'p'))
    bad_field(file, "permissions", letters);
  area.prot = (allowed(0, 'r') ? PROT_READ : 0) | (allowed(1, 'w') ? PROT_WRITE : 0) |
              (allowed(2, 'x') ? PROT_EXEC : 0);
  area.shared = letters[3] == 's';
}

// "7f..-7f.. r-xp 00002000 fe:00 247498      /usr/bin/head"
MappedArea parse_area(std::string_view file, std::string_view line) {
  MappedArea area;
  std::string_view rest = line;
  area.start = hex<uint64_t>(file, "start", text::next(rest, '-'));
  area.end = hex<uint64_t>(file, "end", text::next(rest, ' '));
  if (area.end <= area.start) bad_field(file, "area", line);
  parse_permissions(file, text::next(rest, ' '), area);
  area.offset = hex<uint64_t>(file, "offset", text::next(rest, ' '));
  std::string_view device = text::next(rest, ' ');
  area.dev_major = hex<unsigned>(file, "device", text::next(device, ':'));
  area.dev_minor = hex<unsigned>(file, "device", device);
  area.inode = proc_number<uint64_t>(file, "inode", text::next(rest, ' '));
  size_t path = rest.find_first_not_of(' ');
  if (path != std::string_view::npos) area.path = unescape(rest.substr(path));
  return area;
}

void append(std::string_view file, std::vector<MappedArea>& areas, MappedArea area) {
  if (!areas.empty() && area.start < areas.back().end)
    throw Error("read", "/proc/PID/" + std::string(file)).because("areas overlap");
  areas.push_back(std::move(area));
}

}  // namespace

void VmFlags::add(std::string_view code) {
  int index = find(code);
  if (index >= 0)
    known_ |= uint64_t{1} << index;
  else
    unknown_.append(unknown_.empty() ? "" : " ").append(code);
}

std::vector<MappedArea> parse_maps(std::string_view text) {
  std::vector<MappedArea> areas;
  while (!text.empty()) append("maps", areas, parse_area("maps", text::next(text, '\n')));
  return areas;
}

std::vector<MappedArea> parse_smaps(std::string_view text) {
  std::vector<MappedArea> areas;
  auto check_last = [&] {
    if (!areas.empty() && areas.back().flags.empty()) missing_field("smaps", "VmFlags");
  };
  while (!text.empty()) {
    std::string_view line = text::next(text, '\n');
    // The counters' names begin with a capital letter, an address never does.
    if (line.empty() || line.front() < 'A' || line.front() > 'Z') {
      check_last();
      append("smaps", areas, parse_area("smaps", line));
    } else if (line.starts_with("VmFlags:")) {
      if (areas.empty()) bad_field("smaps", "first line", line);
      line.remove_prefix(8);
      for (std::string_view code : text::words(line)) areas.back().flags.add(code);
    }
  }
  check_last();
  return areas;
}

}  // namespace stasis::kernel
