#include "engine/namespaces/ns_ids.h"

#include <fmt/core.h>
#include <sched.h>

#include "base/error.h"
#include "base/text.h"
#include "kernel/fs.h"
#include "kernel/proc_misc.h"
#include "kernel/proc_status.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

namespace stasis::engine::namespaces {

const std::array<Kind, kind_count> kinds = {{
    {"pid", CLONE_NEWPID, "pid"},
    {"net", CLONE_NEWNET, "network"},
    {"ipc", CLONE_NEWIPC, "ipc"},
    {"uts", CLONE_NEWUTS, "uts"},
    {"time", CLONE_NEWTIME, "time"},
    {"mnt", CLONE_NEWNS, "mount"},
    {"user", CLONE_NEWUSER, "user"},
    {"cgroup", CLONE_NEWCGROUP, "cgroup"},
}};

namespace {

size_t index_of(uint64_t flag) {
  for (size_t i = 0; i < kind_count; ++i)
    if (kinds[i].flag == flag) return i;
  throw Error("look up", "a namespace").because("no such kind");
}

// 0 when the kernel has no such kind.
uint64_t inode_of(int dir, std::string_view link, std::string_view kind) {
  char target[64];
  long n = kernel::call(SYS_readlinkat, dir, std::string(link).c_str(), target, sizeof target);
  if (n == -ENOENT) return 0;
  kernel::must(n, "read", "/proc/PID/ns/" + std::string(link));
  return kernel::parse_namespace_link({target, static_cast<size_t>(n)}, kind);
}

UniqueFd open_ns_directory(pid_t pid) {
  return kernel::open(pid == 0 ? "/proc/self/ns" : fmt::format("/proc/{}/ns", pid),
                      O_RDONLY | O_DIRECTORY);
}

Inodes read_inodes(int dir) {
  Inodes inodes{};
  for (size_t i = 0; i < kind_count; ++i) inodes[i] = inode_of(dir, kinds[i].name, kinds[i].name);
  return inodes;
}

std::string name_of(pid_t pid) {
  std::string comm = kernel::read_file(fmt::format("/proc/{}/comm", pid));
  return fmt::format("process {} ({})", pid, text::trim(comm));
}

}  // namespace

Inodes inodes_of(pid_t pid) { return read_inodes(open_ns_directory(pid).get()); }

NsIds::NsIds(pid_t root) : root_(inodes_of(root)) {
  const Inodes engine = inodes_of(0);
  for (size_t i = 0; i < kind_count; ++i)
    if (engine[i] != 0) engine_ids_[i] = ++last_id_;
  for (size_t i = 0; i < kind_count; ++i) {
    if (root_[i] == 0) continue;
    bool is_own = root_[i] != engine[i];
    root_ids_[i] = is_own ? ++last_id_ : engine_ids_[i];
    if (is_own) own_ |= kinds[i].flag;
  }
}

uint32_t NsIds::admit_mounts(uint64_t inode) {
  auto [number, is_new] = nested_mounts_.try_emplace(inode, 0);
  if (is_new) number->second = ++last_id_;
  return number->second;
}

uint64_t NsIds::inode(uint64_t flag) const { return root_[index_of(flag)]; }
uint32_t NsIds::id(uint64_t flag) const { return root_ids_[index_of(flag)]; }

void NsIds::fill(pid_t pid, image::TaskKobjIdsEntry& ids) const {
  UniqueFd dir = open_ns_directory(pid);
  const Inodes inodes = read_inodes(dir.get());
  for (size_t i = 0; i < kind_count; ++i)
    if (inodes[i] == 0 && root_[i] != 0) {  // it is ending, or has, and loses them one by one
      set(root_ids_, ids);
      return;
    }
  std::array<uint32_t, kind_count> numbers = root_ids_;
  for (size_t i = 0; i < kind_count; ++i) {
    auto nested = nested_mounts_.find(inodes[i]);
    if (kinds[i].flag == CLONE_NEWNS && nested != nested_mounts_.end())
      numbers[i] = nested->second;
    else if (inodes[i] != root_[i])
      throw Error("dump", name_of(pid))
          .because(fmt::format("it is in a {} namespace of its own", kinds[i].words))
          .hint("a container whose processes are all in the same namespaces can be dumped");
  }
  // What its next child would be in must be the same, or the child's would be lost.
  for (std::string_view kind : {"pid", "time"}) {
    uint64_t children = inode_of(dir.get(), std::string(kind) + "_for_children", kind);
    for (size_t i = 0; i < kind_count; ++i)
      // No inode either: a pid namespace that waits for its first process.
      if (kinds[i].name == kind && children != root_[i])
        throw Error("dump", name_of(pid))
            .because(fmt::format("its children would be in another {} namespace", kind));
  }
  set(numbers, ids);
}

void NsIds::fill_engine(image::TaskKobjIdsEntry& ids) const { set(engine_ids_, ids); }

void NsIds::set(const std::array<uint32_t, kind_count>& numbers,
                image::TaskKobjIdsEntry& ids) const {
  auto number = [&](uint64_t flag) { return numbers[index_of(flag)]; };
  ids.set_pid_ns_id(number(CLONE_NEWPID));
  ids.set_net_ns_id(number(CLONE_NEWNET));
  ids.set_ipc_ns_id(number(CLONE_NEWIPC));
  ids.set_uts_ns_id(number(CLONE_NEWUTS));
  ids.set_mnt_ns_id(number(CLONE_NEWNS));
  ids.set_user_ns_id(number(CLONE_NEWUSER));
  if (number(CLONE_NEWCGROUP) != 0) ids.set_cgroup_ns_id(number(CLONE_NEWCGROUP));
  if (number(CLONE_NEWTIME) != 0) ids.set_time_ns_id(number(CLONE_NEWTIME));
}

}  // namespace stasis::engine::namespaces
