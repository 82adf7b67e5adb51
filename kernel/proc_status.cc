#include "kernel/proc_status.h"

#include <functional>
#include <map>

#include "kernel/proc_text.h"

namespace stasis::kernel {
namespace {

constexpr std::string_view file = "status";

// The kernel writes newline as \n and backslash as two; nothing else.
std::string unescape(std::string_view s) {
  std::string out;
  for (size_t i = 0; i < s.size(); ++i) {
    if (s[i] == '\\' && i + 1 < s.size() && (s[i + 1] == 'n' || s[i + 1] == '\\'))
      out += s[++i] == 'n' ? '\n' : '\\';
    else
      out += s[i];
  }
  return out;
}

template <typename Int>
std::vector<Int> numbers(std::string_view field, std::string_view value) {
  std::vector<Int> result;
  for (std::string_view word : text::words(value))
    result.push_back(proc_number<Int>(file, field, word));
  return result;
}

std::array<uint32_t, 4> four_ids(std::string_view field, std::string_view value) {
  auto ids = numbers<uint32_t>(field, value);
  if (ids.size() != 4) bad_field(file, field, value);
  return {ids[0], ids[1], ids[2], ids[3]};
}

bool yes_or_no(std::string_view field, std::string_view value) {
  if (value != "0" && value != "1") bad_field(file, field, value);
  return value == "1";
}

char state_letter(std::string_view field, std::string_view value) {
  if (value.empty()) bad_field(file, field, value);
  return value.front();
}

// One row a line that we take; `required` ones are there since Linux 5.15 in
// every kernel that can run containers.
struct Field {
  bool required;
  std::function<void(ProcStatus&, std::string_view name, std::string_view value)> take;
};

template <typename Int>
Field decimal(Int ProcStatus::* member, bool required = true) {
  return {required, [member](ProcStatus& s, std::string_view name, std::string_view value) {
            s.*member = proc_number<Int>(file, name, value);
          }};
}

Field mask(uint64_t ProcStatus::* member) {
  return {true, [member](ProcStatus& s, std::string_view name, std::string_view value) {
            s.*member = proc_number<uint64_t>(file, name, value, 16);
          }};
}

Field pids(std::vector<pid_t> ProcStatus::* member) {
  return {false, [member](ProcStatus& s, std::string_view name, std::string_view value) {
            s.*member = numbers<pid_t>(name, value);
          }};
}

Field flag(bool ProcStatus::* member, bool required) {
  return {required, [member](ProcStatus& s, std::string_view name, std::string_view value) {
            s.*member = yes_or_no(name, value);
          }};
}

const std::map<std::string_view, Field>& fields() {
  using S = ProcStatus;
  using Text = std::string_view;
  static const std::map<Text, Field> table = {
      {"Name", {true, [](S& s, Text, Text v) { s.name = unescape(v); }}},
      {"Umask",
       {false, [](S& s, Text n, Text v) { s.umask = proc_number<mode_t>(file, n, v, 8); }}},
      {"State", {true, [](S& s, Text n, Text v) { s.state = state_letter(n, v); }}},
      {"Tgid", decimal(&S::tgid)},
      {"Pid", decimal(&S::pid)},
      {"PPid", decimal(&S::ppid)},
      {"TracerPid", decimal(&S::tracer)},
      {"Uid", {true, [](S& s, Text n, Text v) { s.uid = four_ids(n, v); }}},
      {"Gid", {true, [](S& s, Text n, Text v) { s.gid = four_ids(n, v); }}},
      {"Groups", {true, [](S& s, Text n, Text v) { s.groups = numbers<uint32_t>(n, v); }}},
      {"NStgid", pids(&S::ns_tgid)},
      {"NSpid", pids(&S::ns_pid)},
      {"NSpgid", pids(&S::ns_pgid)},
      {"NSsid", pids(&S::ns_sid)},
      {"FDSize", decimal(&S::fd_size)},
      {"Threads", decimal(&S::threads)},
      {"SigPnd", mask(&S::pending)},
      {"ShdPnd", mask(&S::shared_pending)},
      {"SigBlk", mask(&S::blocked)},
      {"SigIgn", mask(&S::ignored)},
      {"SigCgt", mask(&S::caught)},
      {"CapInh", mask(&S::cap_inheritable)},
      {"CapPrm", mask(&S::cap_permitted)},
      {"CapEff", mask(&S::cap_effective)},
      {"CapBnd", mask(&S::cap_bounding)},
      {"CapAmb", mask(&S::cap_ambient)},
      {"NoNewPrivs", flag(&S::no_new_privs, true)},
      {"Kthread", flag(&S::kernel_thread, false)},
      {"Seccomp", decimal(&S::seccomp, false)},
      {"Seccomp_filters",
       {false,
        [](S& s, Text n, Text v) { s.seccomp_filters = proc_number<unsigned>(file, n, v); }}},
      {"VmLck",
       {false,
        [](S& s, Text n, Text v) {
          s.locked_kib = proc_number<uint64_t>(file, n, text::next(v, ' '));  // "0 kB"
        }}},
      {"THP_enabled", {false, [](S& s, Text n, Text v) { s.thp_enabled = yes_or_no(n, v); }}},
  };
  return table;
}

}  // namespace

ProcStatus parse_status(std::string_view text) {
  ProcStatus status;
  std::map<std::string_view, bool> seen;
  while (!text.empty()) {
    std::string_view value = text::next(text, '\n');
    std::string_view name = text::next(value, ':');
    auto field = fields().find(name);
    if (field == fields().end()) continue;
    // One tab follows the colon; more blanks may belong to the name.
    if (value.starts_with('\t')) value.remove_prefix(1);
    if (name != "Name") value = text::trim(value);
    field->second.take(status, name, value);
    seen[name] = true;
  }
  for (const auto& [name, field] : fields())
    if (field.required && !seen.contains(name)) missing_field(file, name);
  return status;
}

}  // namespace stasis::kernel
