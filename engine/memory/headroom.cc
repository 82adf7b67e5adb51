#include "engine/memory/headroom.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "base/text.h"
#include "kernel/fs.h"

namespace stasis::engine {

namespace {

constexpr uint64_t no_limit = UINT64_MAX;

std::string read_if_there(int directory, const std::string& file) {
  long fd = kernel::try_open_in(directory, file, O_RDONLY, RESOLVE_BENEATH);
  return fd < 0 ? std::string() : kernel::read_all(UniqueFd(static_cast<int>(fd)).get(), file);
}

// The number behind `name` in lines of names and numbers.
uint64_t number_of(std::string_view name, std::string_view lines) {
  for (std::string_view line : text::split(lines, '\n')) {
    auto words = text::words(line);
    if (words.size() >= 2 && words[0] == name) return text::to_int<uint64_t>(words[1]).value_or(0);
  }
  return 0;
}

uint64_t difference(std::string_view limit, uint64_t used) {
  auto most = text::to_int<uint64_t>(text::trim(limit));  // not "max", nor empty
  if (!most) return no_limit;
  return *most > used ? *most - used : 0;
}

bool limits_tasks(const cgroup::Hierarchy& hierarchy) {
  return hierarchy.v2() ||
         std::any_of(hierarchy.controllers.begin(), hierarchy.controllers.end(),
                     [](const std::string& c) { return c == "memory" || c == "pids"; });
}

uint64_t machine_memory() {
  constexpr uint64_t kib = 1024;
  return number_of("MemAvailable:", kernel::read_file("/proc/meminfo")) * kib;
}

}  // namespace

uint64_t memory_left(std::string_view limit, std::string_view used, std::string_view stat) {
  // What only caches a file and hasn't been used of late makes room at once. The
  // numbers of cgroup v1 are the directory's own, with "total_" those of all below.
  uint64_t spare =
      std::max(number_of("inactive_file", stat), number_of("total_inactive_file", stat));
  uint64_t holds = text::to_int<uint64_t>(text::trim(used)).value_or(0);
  return difference(limit, holds > spare ? holds - spare : 0);
}

Headroom::Left& Headroom::left_in(const cgroup::Hierarchy& hierarchy, const std::string& path) {
  auto [at, is_new] = left_.try_emplace(hierarchy.name + ":" + path, Left{no_limit, no_limit});
  Left& left = at->second;
  if (!is_new) return left;
  UniqueFd directory =
      kernel::open_at(hierarchy.root.get(), cgroup::relative(path), O_PATH | O_DIRECTORY);
  auto read = [&](const char* file) { return read_if_there(directory.get(), file); };
  if (hierarchy.v2()) {
    std::string used = read("memory.current"), stat = read("memory.stat");
    left.bytes = std::min(memory_left(read("memory.max"), used, stat),
                          memory_left(read("memory.high"), used, stat));
  } else if (std::string limit = read("memory.limit_in_bytes"); !limit.empty()) {
    left.bytes = memory_left(limit, read("memory.usage_in_bytes"), read("memory.stat"));
  }
  left.processes = difference(read("pids.max"),
                              text::to_int<uint64_t>(text::trim(read("pids.current"))).value_or(0));
  return left;
}

std::string Headroom::take(std::string_view membership, uint64_t bytes) {
  // With the tables that lead to it, and a little for what the tasks take meanwhile.
  constexpr uint64_t spare = 4 << 20;
  const uint64_t wanted = bytes + bytes / 128 + spare;
  auto& machine = left_.try_emplace("", Left{0, no_limit}).first->second;
  if (machine.bytes == 0) machine.bytes = machine_memory();
  // The image may lie in memory, too.
  if (machine.bytes < wanted + bytes)
    return fmt::format("the machine has no {} MiB to spare", (wanted + bytes) >> 20);
  std::vector<Left*> all{&machine};
  for (const cgroup::Member& member : cgroup::parse_membership(membership, "the container")) {
    const cgroup::Hierarchy* hierarchy = hierarchies_.find(member.name);
    if (!hierarchy || !limits_tasks(*hierarchy)) continue;
    for (std::string path = member.path;;
         path = path.substr(0, std::max<size_t>(1, path.rfind('/')))) {
      Left& left = left_in(*hierarchy, path);
      if (left.bytes < wanted)
        return fmt::format("the memory limit of cgroup {} leaves {} MiB, {} may be needed", path,
                           left.bytes >> 20, wanted >> 20);
      if (left.processes == 0) return fmt::format("cgroup {} is at its limit of processes", path);
      all.push_back(&left);
      if (path == "/") break;
    }
  }
  for (Left* left : all) {
    if (left->bytes != no_limit) left->bytes -= wanted;
    if (left->processes != no_limit) --left->processes;
  }
  machine.bytes -= bytes;
  return {};
}

}  // namespace stasis::engine
