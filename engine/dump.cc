// A dump from top to bottom: freeze, look inside and outside, write, publish,
// let go or kill.

#include <fmt/format.h>
#include <linux/kcmp.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <time.h>

#include <cerrno>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "engine/files/dumper.h"
#include "engine/files/obstacles.h"
#include "engine/image/format.h"
#include "engine/image/image.h"
#include "engine/memory/areas.h"
#include "engine/memory/fork_snapshot.h"
#include "engine/memory/outdated.h"
#include "engine/memory/pages.h"
#include "engine/memory/vma.h"
#include "engine/mounts/archive.h"
#include "engine/mounts/mounts.h"
#include "engine/mounts/spaces.h"
#include "engine/namespaces/cgroup_dumper.h"
#include "engine/namespaces/namespaces.h"
#include "engine/plan.h"
#include "engine/stopwatch.h"
#include "engine/tasks/controlling_terminal.h"
#include "engine/tasks/frozen_tree.h"
#include "engine/tasks/processor.h"
#include "engine/tasks/registers.h"
#include "engine/tasks/store_task.h"
#include "fs.pb.h"
#include "kernel/directories.h"
#include "kernel/fs.h"

namespace stasis::engine {

namespace {

// Everything that is written in one dump.
struct Dump {
  Dump(const DumpPlan& p, int image_dir, Observer& o, Log& l)
      : plan(p),
        observer(o),
        log(l),
        ids(p.root),
        id_map(userns::IdMap::of(p.root)),
        root_pidfd(kernel::pidfd_open(p.root)),
        cgroups(p, ids),
        writer(image_dir, p.durable),
        files(p, writer, l),
        sysctls(namespaces::open_sysctls(p, ids, root_pidfd.get())),
        copier(p.workers),
        snapshot(p, cgroups.hierarchies(), areas, l) {}

  const DumpPlan& plan;
  Observer& observer;
  Log& log;
  namespaces::NsIds ids;
  userns::IdMap id_map;
  UniqueFd root_pidfd;
  cgroup::Dumper cgroups;
  image::ImageWriter writer;
  files::Dumper files;
  std::unique_ptr<net::Sysctls> sysctls;
  SeccompFilters filters;
  PageCopier copier;
  AreaReader areas;
  ForkSnapshot snapshot;
  bool copies = false;                        // are wanted
  std::map<uint64_t, UniqueFd> shared_areas;  // by shmid
  namespaces::SysvUse sysv;
  SemaphoreUse semaphores;
  std::set<std::string> lsm_labels;
  uint32_t last_pages_id = 0;
  uint32_t last_object_id = 0;
  DumpResult result;
};

bool shares(pid_t a, pid_t b, int type) { return kernel::call(SYS_kcmp, a, b, type, 0, 0) == 0; }

// Processes that share an address space, descriptors or signal actions without
// being threads of each other are rare and not carried yet.
void refuse_sharing(FrozenTree& tree) {
  for (FrozenTask& task : tree.tasks()) {
    if (task.zombie || task.stat.ppid == 0) continue;
    for (FrozenTask& parent : tree.tasks()) {
      if (parent.pid != task.stat.ppid || parent.zombie) continue;
      for (auto [type, what] : {std::pair{KCMP_VM, "its address space"},
                                {KCMP_FILES, "its descriptors"},
                                {KCMP_FS, "its working directory"},
                                {KCMP_SIGHAND, "its signal actions"}})
        if (shares(task.pid, parent.pid, type))
          throw Error("checkpoint", task.name())
              .because(fmt::format("it shares {} with its parent, {}", what, parent.name()))
              .hint("wait until a vfork or clone of it is done and try again");
    }
  }
}

// No task of the container can make it a member again: 0 is the session of
// someone outside. Where the first process is a member, all are born in it.
std::optional<Finding> foreign_session(const kernel::ProcStatus& root,
                                       const kernel::ProcStatus& task) {
  if (root.ns_sid.back() == 0 || task.ns_sid.back() != 0) return std::nullopt;
  return Finding{fmt::format("process {} ({})", task.pid, task.name),
                 "belongs to a session outside of the container",
                 "end it: it came from outside, as by nsenter"};
}

void refuse_foreign_sessions(FrozenTree& tree) {
  for (const FrozenTask& task : tree.tasks())
    if (auto found = foreign_session(tree.root().status, task.status))
      throw Error("dump", found->subject).because("it " + found->what).hint(found->remedy);
}

void store_tree(Dump& dump, const FrozenTask& task) {
  image::PstreeEntry entry;
  entry.set_pid(static_cast<uint32_t>(task.ns_pid));
  entry.set_ppid(static_cast<uint32_t>(task.ns_ppid));
  entry.set_pgid(static_cast<uint32_t>(task.ns_pgid));
  entry.set_sid(static_cast<uint32_t>(task.ns_sid));
  if (task.zombie) entry.add_threads(static_cast<uint32_t>(task.ns_pid));
  for (const FrozenThread& thread : task.threads)
    entry.add_threads(static_cast<uint32_t>(thread.ns_tid));
  dump.writer.append("pstree", entry);
}

image::TaskKobjIdsEntry store_ids(Dump& dump, const FrozenTask& task) {
  image::TaskKobjIdsEntry ids;
  uint32_t id = ++dump.last_object_id;
  ids.set_vm_id(id);
  ids.set_files_id(id);
  ids.set_fs_id(id);
  ids.set_sighand_id(id);
  dump.ids.fill(task.pid, ids);
  dump.writer.append(fmt::format("ids-{}", task.ns_pid), ids);
  return ids;
}

void store_fs(Dump& dump, const FrozenTask& task) {
  image::FsEntry fs;
  fs.set_cwd_id(dump.files.path_file(task.pid, fmt::format("/proc/{}/cwd", task.pid), O_RDONLY).id);
  fs.set_root_id(
      dump.files.path_file(task.pid, fmt::format("/proc/{}/root", task.pid), O_RDONLY).id);
  fs.set_umask(task.status.umask.value_or(022));
  dump.writer.append(fmt::format("fs-{}", task.ns_pid), fs);
}

// Shared memory of all kinds goes by one number in the image. False: it is taken.
bool store_area(Dump& dump, uint64_t id, UniqueFd memory) {
  auto [area, is_new] = dump.shared_areas.try_emplace(id, std::move(memory));
  if (is_new)
    dump.result.shared_pages_written +=
        store_shared(id, area->second.get(), ++dump.last_pages_id, dump.writer, dump.copier);
  return is_new;
}

void store_memory(Dump& dump, FrozenTask& task, image::MmEntry& mm, bool lone) {
  mm.set_dumpable(task.dumpable);
  dump.writer.append(fmt::format("mm-{}", task.ns_pid), mm);
  auto outdated = outdated_areas(task, dump.plan.mounts);
  for (const PageRange& range : outdated)
    dump.log.info("{}: {} pages at {:x} are of a file that was changed since", task.name(),
                  range.pages(), range.start);
  std::vector<PageRange> copyable;
  if (dump.copies) copyable = areas_of_a_copy(task);
  std::vector<PageCopier::Piece> later;
  dump.result.pages_written += store_pages(task, mm, outdated, ++dump.last_pages_id, lone,
                                           dump.writer, dump.copier, copyable, &later);
  dump.snapshot.add(task, std::move(later));
  for (const image::VmaEntry& vma : mm.vmas()) {
    dump.result.pages_scanned += (vma.end() - vma.start()) / page_size;
    if (vma.status() & image::vma_sysvipc) ++dump.sysv.attached[vma.shmid()];
    if (!(vma.status() & image::vma_anon_shared) || (vma.status() & image::vma_sysvipc) ||
        dump.shared_areas.count(vma.shmid()))
      continue;
    store_area(
        dump, vma.shmid(),
        kernel::open(fmt::format("/proc/{}/map_files/{:x}-{:x}", task.pid, vma.start(), vma.end()),
                     O_RDONLY));
  }
}

void store_task(Dump& dump, FrozenTask& task, bool lone) {
  store_tree(dump, task);
  if (task.zombie) {
    dump.writer.append(fmt::format("core-{}", task.ns_pid), zombie_core(task));
    image::TaskKobjIdsEntry none;
    none.set_vm_id(0);
    none.set_files_id(0);
    none.set_fs_id(0);
    none.set_sighand_id(0);
    dump.writer.append(fmt::format("ids-{}", task.ns_pid), none);
    return;
  }
  task.areas = dump.areas.read(task);
  uint64_t brk = store_cores(task, dump.id_map, dump.filters, dump.semaphores);
  image::TaskKobjIdsEntry ids = store_ids(dump, task);
  for (FrozenThread& thread : task.threads) {
    thread.core.mutable_thread_core()->set_cg_set(dump.cgroups.set_of(task.pid, thread.tid));
    const image::CredsEntry& creds = thread.core.thread_core().creds();
    if (creds.has_lsm_profile()) dump.lsm_labels.insert(creds.lsm_profile());
    dump.writer.append(fmt::format("core-{}", thread.ns_tid), thread.core);
  }
  image::MmEntry mm;
  store_mm(task, brk, dump.files, &mm);
  store_vmas(task, dump.files, &mm);
  store_memory(dump, task, mm, lone);
  store_fs(dump, task);
  dump.files.descriptors(task.pid, task.pidfd.get(), ids.files_id());
}

image::InventoryEntry inventory(Dump& dump) {
  image::InventoryEntry entry;
  entry.set_img_version(image::image_version);
  entry.set_fdinfo_per_id(true);
  entry.set_ns_per_id(true);
  image::TaskKobjIdsEntry* ids = entry.mutable_root_ids();
  ids->set_vm_id(++dump.last_object_id);
  ids->set_files_id(dump.last_object_id);
  ids->set_fs_id(dump.last_object_id);
  ids->set_sighand_id(dump.last_object_id);
  dump.ids.fill_engine(*ids);
  entry.set_root_cg_set(dump.cgroups.engine_set());
  entry.set_lsmtype(dump.lsm_labels.empty()                  ? image::NO_LSM
                    : kernel::exists("/sys/module/apparmor") ? image::APPARMOR
                                                             : image::SELINUX);
  timespec boot{};
  clock_gettime(CLOCK_BOOTTIME, &boot);
  entry.set_dump_uptime(static_cast<uint64_t>(boot.tv_sec) * 1000000 +
                        static_cast<uint64_t>(boot.tv_nsec) / 1000);
  entry.set_tcp_close(dump.plan.tcp_close);
  entry.set_allow_uprobes(false);
  if (std::string held = dump.files.connections().held_as(); !held.empty()) {
    constexpr uint32_t by_nftables = 1;
    entry.set_network_lock_method(by_nftables);
    entry.set_dump_criu_run_id(held);
  }
  return entry;
}

// Their content goes the way of the tasks' own, to be copied with it.
void store_namespaces(Dump& dump) {
  dump.sysv.store_memory = [&](uint64_t id, UniqueFd memory) {
    if (!store_area(dump, id, std::move(memory)))
      throw Error("dump", fmt::format("shared memory segment {}", id))
          .because("anonymous shared memory of a process has the same number by chance")
          .hint("try again with the program started anew");
  };
  namespaces::dump(dump.plan, dump.ids, dump.sysctls.get(), dump.root_pidfd.get(), dump.sysv,
                   dump.writer, dump.log);
  image::StasisEntry more;
  for (image::SemaphoreUndoEntry& entry : dump.semaphores.undo)
    *more.add_semaphore_undo() = std::move(entry);
  for (image::PosixQueueEntry& entry : dump.sysv.queues.entries)
    *more.add_posix_queues() = std::move(entry);
  if (more.semaphore_undo_size() > 0 || more.posix_queues_size() > 0)
    dump.writer.append("stasis", more);
}

void store_memory_files(Dump& dump) {
  for (auto& [shmid, content] : dump.files.take_memory())
    if (!store_area(dump, shmid, std::move(content)))
      throw Error("dump", "a memory file").because("shared memory has the same inode number");
}

// Writes everything but the inventory while the tasks stand still.
void store_container(Dump& dump, FrozenTree& tree) {
  refuse_sharing(tree);
  refuse_foreign_sessions(tree);
  dump.semaphores.sets = namespaces::semaphores(dump.ids, dump.root_pidfd.get());
  dump.files.terminals().set_sessions(sessions_of(tree));
  bool lone = tree.tasks().size() == 1;
  dump.copies = dump.snapshot.wanted(tree);
  for (FrozenTask& task : tree.tasks()) store_task(dump, task, lone);
  dump.files.queues();
  store_namespaces(dump);
  store_memory_files(dump);
  std::set<pid_t> pids;
  for (const FrozenTask& task : tree.tasks()) pids.insert(task.pid);
  dump.files.check_processes(pids);
  dump.snapshot.take(tree, dump.copier);
  Stopwatch watch;
  uint64_t total = dump.copier.bytes() + dump.snapshot.bytes();
  dump.copier.save([&](uint64_t done) { dump.observer.progress(done, total); });
  dump.result.write_us = watch.microseconds();
  dump.shared_areas.clear();  // nothing of the tasks' stays open here when they go on
  dump.files.finish();
  dump.filters.write(dump.writer);
  if (const auto& maps = dump.id_map.maps())
    dump.writer.append(fmt::format("userns-{}", dump.ids.id(CLONE_NEWUSER)), *maps);
  if (dump.ids.own(CLONE_NEWNS)) {
    std::vector<uint32_t> spaces{dump.ids.id(CLONE_NEWNS)};
    for (const NestedMounts& nested : dump.plan.nested)
      spaces.push_back(dump.ids.admit_mounts(nested.inode));
    mounts::dump(dump.plan, spaces, dump.writer, dump.log);
  }
  dump.cgroups.finish(dump.writer);
}

// Only now, as until the freeze processes could mount what they like.
void look_at_mounts(Dump& dump, FrozenTree& tree, DumpPlan& plan) {
  std::vector<pid_t> pids;
  for (const FrozenTask& task : tree.tasks())
    if (!task.zombie) pids.push_back(task.pid);
  plan.nested = mounts::find_nested(plan, pids);
  if (!dump.ids.own(CLONE_NEWNS)) return;
  mounts::check_unchanged(plan);
  for (const NestedMounts& nested : plan.nested) dump.ids.admit_mounts(nested.inode);
}

// The tasks go on; what remains to be written is written from their copies.
void save_copies(Dump& dump) {
  Stopwatch watch;
  uint64_t before = dump.copier.bytes(), total = before + dump.snapshot.bytes();
  dump.snapshot.save([&](uint64_t done) { dump.observer.progress(before + done, total); });
  dump.result.write_us += watch.microseconds();
  dump.result.tasks_copied = static_cast<uint32_t>(dump.snapshot.copied());
  dump.result.not_copied_for = dump.snapshot.obstacle();
  if (dump.result.tasks_copied > 0)
    dump.log.info("{} of memory, of {} processes, written from copies", dump.snapshot.bytes(),
                  dump.result.tasks_copied);
}

// Whatever comes, the network is let go again, but for a container that is to end.
void write_down(Dump& dump, FrozenTree& tree, const Stopwatch& watch) {
  bool own_network = dump.ids.own(CLONE_NEWNET);
  if (own_network) dump.observer.network_lock();
  auto unlock_network = [&] {
    if (std::exchange(own_network, false)) dump.observer.network_unlock();
  };
  try {
    dump.observer.query_external_files();
    store_container(dump, tree);
    image::InventoryEntry entry = inventory(dump);
    tree.check_alive();
    if (dump.plan.leave_running) {
      // The content is taken: the tasks need not wait for the disk.
      tree.release();
      dump.result.frozen_us = watch.microseconds();
      unlock_network();
      save_copies(dump);
      dump.writer.publish(entry);
      dump.observer.post_dump();
    } else {
      dump.writer.publish(entry);
      dump.observer.post_dump();
      dump.result.frozen_us = watch.microseconds();
      dump.files.connections().silence();
      tree.kill();
      dump.files.connections().stay_held();
    }
  } catch (...) {
    unlock_network();
    throw;
  }
}

std::vector<Finding> foreign_sessions(pid_t root, const std::vector<pid_t>& pids) {
  auto status = [](pid_t pid) {
    return kernel::parse_status(kernel::read_file(fmt::format("/proc/{}/status", pid)));
  };
  std::vector<Finding> findings;
  for (pid_t pid : pids) {
    try {
      if (auto found = foreign_session(status(root), status(pid))) findings.push_back(*found);
    } catch (const Error& error) {
      if (error.code() != ENOENT && error.code() != ESRCH) throw;  // ended meanwhile
    }
  }
  return findings;
}

}  // namespace

std::vector<Finding> obstacles(const DumpPlan& given) {
  std::vector<pid_t> pids;
  if (!given.freeze_cgroup.empty()) pids = Freezer::processes(given.freeze_cgroup);
  if (pids.empty()) pids.push_back(given.root);
  DumpPlan plan = given;
  try {
    plan.nested = mounts::find_nested(plan, pids);
  } catch (const Error& error) {
    return {
        {error.subject(), error.cause().empty() ? error.what() : error.cause(), error.remedy()}};
  }
  std::vector<Finding> all = mounts::obstacles(plan);
  std::vector<Finding> files = files::obstacles(pids, plan);
  all.insert(all.end(), files.begin(), files.end());
  std::vector<Finding> more = namespaces::obstacles(plan, pids);
  all.insert(all.end(), more.begin(), more.end());
  more = foreign_sessions(plan.root, pids);
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

namespace {

DumpResult dump_once(const DumpPlan& given, int image_dir, bool foresee, Observer& observer,
                     Log& log) {
  DumpPlan plan = given;
  Dump dump(plan, image_dir, observer, log);
  if (dump.ids.own(CLONE_NEWNS)) mounts::prepare_packing();
  prepare_registers();
  processor::dump(dump.writer);
  if (foresee) dump.areas.foresee(plan);
  Stopwatch watch;
  FrozenTree tree(plan, log);
  dump.result.freezing_us = watch.microseconds();
  log.info("Froze {} processes in {} us", tree.tasks().size(), dump.result.freezing_us);
  try {
    look_at_mounts(dump, tree, plan);
    write_down(dump, tree, watch);
  } catch (const Error&) {
    tree.check_alive();  // or that is why
    throw;
  }
  log.info("Dumping finished: {} pages, frozen for {} us", dump.result.pages_written,
           dump.result.frozen_us);
  return dump.result;
}

}  // namespace

DumpResult dump(const DumpPlan& plan, int image_dir, Observer& observer, Log& log) {
  observer.pre_dump();
  const bool foresee = plan.leave_running && plan.snapshot != Snapshot::plain;
  try {
    return dump_once(plan, image_dir, foresee, observer, log);
  } catch (const AreasChanged& error) {
    log.info("{}: once more, with a closer look", error.what());
  }
  return dump_once(plan, image_dir, false, observer, log);
}

}  // namespace stasis::engine
