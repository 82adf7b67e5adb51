#include "engine/tasks/revive.h"

#include <fmt/format.h>
#include <linux/rseq.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

#include "engine/files/fd_moves.h"
#include "engine/files/locks.h"
#include "engine/files/memfd.h"
#include "engine/image/format.h"
#include "engine/memory/address_space.h"
#include "engine/memory/vdso.h"
#include "engine/memory/vma.h"
#include "engine/namespaces/semaphore_undo.h"
#include "engine/tasks/limits.h"
#include "engine/tasks/registers.h"
#include "engine/tasks/signals.h"
#include "engine/tasks/task_doer.h"
#include "engine/tasks/thread_state.h"
#include "engine/tasks/timers.h"
#include "kernel/fs.h"

namespace stasis::engine {

namespace {

std::string proc_file(pid_t pid, const char* name) { return fmt::format("/proc/{}/{}", pid, name); }

// The nearest task above whose memory a fork may have left it.
const image::TaskImage* ancestor_of(const image::Checkpoint& checkpoint,
                                    const image::TaskImage& task) {
  for (const image::TaskImage* at = &task; at->tree.ppid() != 0;) {
    auto parent = std::find_if(checkpoint.tasks.begin(), checkpoint.tasks.end(),
                               [&](const auto& t) { return t.tree.pid() == at->tree.ppid(); });
    if (parent == checkpoint.tasks.end() || parent->dead()) return nullptr;
    at = &*parent;
    if (same_program(at->mm, task.mm)) return at;
  }
  return nullptr;
}

bool has_dead_child(const image::Checkpoint& checkpoint, const image::TaskImage& parent) {
  return std::any_of(checkpoint.tasks.begin(), checkpoint.tasks.end(), [&](const auto& task) {
    return task.dead() && task.tree.ppid() == parent.tree.pid();
  });
}

// Whatever has been sent to a task so far, as dup3 and close make of it what
// the image wants.
void add_steps(const std::vector<files::FdStep>& steps, SyscallBatch& batch) {
  for (const files::FdStep& step : steps) switch (step.kind) {
      case files::FdStep::Kind::dup3:
        batch.must("place the descriptors of", SYS_dup3, step.fd, step.target,
                   step.cloexec ? O_CLOEXEC : 0);
        break;
      case files::FdStep::Kind::close:
        batch.must("close a descriptor of", SYS_close, step.fd);
        break;
      case files::FdStep::Kind::set_cloexec:
        batch.must("flag a descriptor of", SYS_fcntl, step.fd, F_SETFD,
                   step.cloexec ? FD_CLOEXEC : 0);
        break;
    }
}

}  // namespace

// Numbers in the task are positions in `ours`.
struct Revival::Descriptors {
  std::vector<int> ours;
  std::map<size_t, int> of_vma;  // index of the VMA -> number
  int exe = -1, cwd = -1, root = -1;
  int mounts = -1;  // the mount namespace, where it isn't the root task's
  int login = -1;   // its /proc/PID/loginuid, which only the task itself may write
  UniqueFd login_file;
  std::vector<files::FdMove> moves;

  int add(int fd) {
    auto known = std::find(ours.begin(), ours.end(), fd);
    if (known != ours.end()) return static_cast<int>(known - ours.begin());
    ours.push_back(fd);
    return static_cast<int>(ours.size()) - 1;
  }
};

Revival::Revival(Tools tools)
    : t_(tools),
      confinement_(tools.checkpoint, tools.plan.lsm_profile, tools.inherited),
      shared_(tools.checkpoint, tools.copier) {
  for (const image::TaskImage& task : t_.checkpoint.tasks)
    if (!task.dead())
      if (const image::TaskImage* ancestor = ancestor_of(t_.checkpoint, task))
        ancestors_.insert(ancestor);
}

Revival::~Revival() = default;

std::vector<std::pair<uint64_t, uint64_t>> Revival::taken_addresses(
    const image::Checkpoint& checkpoint) {
  std::vector<std::pair<uint64_t, uint64_t>> taken;
  for (const image::TaskImage& task : checkpoint.tasks)
    for (const image::VmaEntry& vma : task.mm.vmas()) taken.emplace_back(vma.start(), vma.end());
  for (const image::TaskImage& task : checkpoint.tasks)
    for (const PageRange& range : attached_ranges(task.mm, image::segment_sizes(checkpoint)))
      taken.emplace_back(range.start, range.end);
  return taken;
}

int Revival::sender_number(const image::Checkpoint& checkpoint) {
  int number = 16;
  for (const image::TaskImage& task : checkpoint.tasks) {
    int needed = 8;  // working directory and the like
    for (const image::FdinfoEntry& fd : task.fds) {
      number = std::max(number, static_cast<int>(fd.fd()) + 1);
      ++needed;
    }
    for (const image::VmaEntry& vma : task.mm.vmas())
      if (vma.status() &
          (image::vma_file_private | image::vma_file_shared | image::vma_anon_shared))
        ++needed;
    number = std::max(number, needed);
  }
  return number;
}

void Revival::strip(Tracee& root) {
  SyscallBatch batch;
  // The kernel writes to these on its own; their memory is about to go.
  if (__rseq_size > 0)
    batch.may(SYS_rseq, reinterpret_cast<uint64_t>(__builtin_thread_pointer()) + __rseq_offset,
              std::max(__rseq_size, 32u), RSEQ_FLAG_UNREGISTER, RSEQ_SIG);
  batch.must("detach the memory of", SYS_set_robust_list, 0, 24);
  batch.must("detach the memory of", SYS_set_tid_address, 0);
  int keep = t_.sender.number();
  batch.must("close the descriptors of", SYS_close_range, 0, keep - 1, 0);
  batch.must("close the descriptors of", SYS_close_range, keep + 1, ~0u, 0);
  batch.must("empty the memory of", SYS_munmap, 0, t_.trampoline.start());
  batch.must("empty the memory of", SYS_munmap, t_.trampoline.end(),
             task_size - t_.trampoline.end());
  t_.trampoline.run(root, batch, "the container's first process");
}

void Revival::open_files() {
  for (const image::TaskImage& task : t_.checkpoint.tasks) {
    if (task.dead()) continue;
    auto needs_session = [&](const image::FdinfoEntry& fd) {
      return files::is_current_terminal(t_.checkpoint, t_.files.entry(fd.id()));
    };
    if (std::none_of(task.fds.begin(), task.fds.end(), needs_session)) {
      descriptors_of(task);
      continue;
    }
    for (const image::FdinfoEntry& fd : task.fds)
      if (!needs_session(fd)) t_.files.get(fd.id());
  }
}

// The numbers, among those of `d`, of what the task maps.
std::map<size_t, int> Revival::mapped_descriptors(const image::TaskImage& image, Descriptors& d) {
  std::map<size_t, int> numbers;
  for (int i = 0; i < image.mm.vmas_size(); ++i) {
    const image::VmaEntry& vma = image.mm.vmas(i);
    if (auto shmid = shared_.id_of(vma)) {
      numbers[static_cast<size_t>(i)] = d.add(shared_.get(*shmid));
    } else if (vma.status() & (image::vma_file_private | image::vma_file_shared)) {
      uint32_t id = static_cast<uint32_t>(vma.shmid());
      UniqueFd& file = mapped_files_[{id, vma.fdflags()}];
      if (!file) file = t_.files.open_for_mapping(id, vma.fdflags());
      numbers[static_cast<size_t>(i)] = d.add(file.get());
    }
  }
  return numbers;
}

Revival::Descriptors& Revival::descriptors_of(const image::TaskImage& image) {
  auto& slot = sent_[&image];
  if (slot) return *slot;
  slot = std::make_unique<Descriptors>();
  Descriptors& d = *slot;
  d.of_vma = mapped_descriptors(image, d);
  d.exe = d.add(t_.files.get(image.mm.exe_file_id()));
  d.cwd = d.add(t_.files.get(image.fs.cwd_id()));
  d.root = d.add(t_.files.get(image.fs.root_id()));
  auto own_mounts = t_.mount_namespaces.find(image.ids.mnt_ns_id());
  if (own_mounts != t_.mount_namespaces.end()) d.mounts = d.add(own_mounts->second.get());
  for (const files::Restorer::Slot& fd : t_.files.descriptors(image))
    d.moves.push_back({d.add(fd.ours), fd.target, fd.cloexec});
  return d;
}

void Revival::fill(LiveTree& tree,
                   const std::function<void(uint64_t done, uint64_t total)>& progress) {
  t_.files.later().set_pids(tree.pids());
  const userns::IdMap ids(t_.checkpoint.userns);
  TaskDoer doer(tree, t_.trampoline, t_.sender, ids, t_.log);
  t_.files.unite_sockets(doer);
  for (LiveTask& task : tree.tasks()) lay_out_memory(task);
  fill_memory_files();
  uint64_t total = t_.copier.bytes();
  t_.copier.fill([&](uint64_t done) { progress(done, total); });
  for (LiveTask& task : tree.tasks()) patch_memory(task);
  files::seal_memory(t_.files);
  for (LiveTask& task : tree.tasks()) equip(task);
  t_.files.finish_sockets(tree.pids());
  files::take_leases(t_.files);
  t_.files.set_owners(tree.pids());
  t_.files.terminals().settle();
  t_.files.close_all();
}

void Revival::map_memory(LiveTask& task, const std::map<size_t, int>& descriptors,
                         SyscallBatch& batch, PageCopier& copier) {
  const image::TaskImage& image = *task.image;
  const auto segments = image::segment_sizes(t_.checkpoint);
  Heritage heritage;
  UniqueFd mem;
  if (task.memory) {
    heritage = take_heritage(*task.memory, image, {t_.trampoline.start(), t_.trampoline.end()},
                             attached_ranges(image.mm, segments), batch);
    mem = kernel::open(proc_file(task.pid, "mem"), O_RDONLY);
  }
  attach_segments(image.mm, segments, batch);
  if (!heritage.vdso) map_vdso(image.mm, batch);
  map_vmas(image.mm, descriptors, heritage.kept, batch);
  task.memory = &image;
  pages_.push_back(t_.checkpoint.dir.raw(fmt::format("pages-{}", image.pages_id)));
  fill_pages(image, task.pid, pages_.back().get(), heritage.pages, mem.get(), copier);
  if (mem) pages_.push_back(std::move(mem));
}

void Revival::bequeath(LiveTask& task) {
  if (!ancestors_.contains(task.image)) return;
  Descriptors mapped;  // the others may not be there yet
  SyscallBatch batch;
  std::map<size_t, int> numbers = mapped_descriptors(*task.image, mapped);
  t_.sender.send(mapped.ours, batch);
  PageCopier copier(t_.plan.workers);
  map_memory(task, numbers, batch, copier);
  if (!mapped.ours.empty())
    batch.must("close the descriptors of", SYS_close_range, 0, mapped.ours.size() - 1, 0);
  t_.trampoline.run(task.leader().tracee, batch, task.name());
  copier.fill([](uint64_t) {});
}

void Revival::lay_out_memory(LiveTask& task) {
  if (task.image->dead()) return;
  Descriptors& sent = descriptors_of(*task.image);
  constexpr uint32_t unset = ~0U;
  if (!t_.inherited && task.image->core().loginuid() != unset &&
      task.image->core().has_loginuid()) {
    sent.login_file = kernel::open(proc_file(task.pid, "loginuid"), O_WRONLY);
    sent.login = sent.add(sent.login_file.get());
  }
  SyscallBatch batch;
  t_.sender.send(sent.ours, batch);
  if (task.memory != task.image) map_memory(task, sent.of_vma, batch, t_.copier);
  t_.trampoline.run(task.leader().tracee, batch, task.name());
}

void Revival::fill_memory_files() {
  for (const files::SocketPacket& packet : t_.files.socket_packets())  // under way only, maybe
    for (const image::ScmEntry& scm : packet.entry.scm())
      for (uint32_t id : scm.rights())
        if (t_.files.entry(id).type() == image::MEMFD) t_.files.get(id);
  for (const auto& [id, file] : t_.files.memory_files()) {
    auto image = t_.checkpoint.shmem.find(file.inode->shmid());
    if (image == t_.checkpoint.shmem.end()) continue;
    pages_.push_back(t_.checkpoint.dir.raw(fmt::format("pages-{}", image->second.pages_id)));
    fill_shared(image->second, file.fd.get(), file.inode->size(), pages_.back().get(), t_.copier);
  }
}

void Revival::patch_memory(const LiveTask& task) {
  if (task.image->patches.empty()) return;
  UniqueFd mem = kernel::open(proc_file(task.pid, "mem"), O_WRONLY);
  for (const image::MemoryPatch& patch : task.image->patches)
    kernel::must(kernel::call(SYS_pwrite64, mem.get(), patch.bytes.data(), patch.bytes.size(),
                              patch.address),
                 "patch the memory of", task.name());
}

void Revival::place_descriptors(LiveTask&, const Descriptors& sent, SyscallBatch& batch) {
  for (int number = 0; number < static_cast<int>(sent.ours.size()); ++number) {
    bool wanted = std::any_of(sent.moves.begin(), sent.moves.end(),
                              [&](const files::FdMove& move) { return move.from == number; });
    if (!wanted) batch.must("close a descriptor of", SYS_close, number);
  }
  add_steps(files::plan_fd_moves(sent.moves), batch);
  batch.must("close a descriptor of", SYS_close, t_.sender.number());
}

void Revival::equip(LiveTask& task) {
  if (task.image->dead()) return;
  const image::TaskImage& image = *task.image;
  const image::TaskCoreEntry& core = image.core();
  Descriptors& sent = descriptors_of(*task.image);
  SyscallBatch batch;
  protect_vmas(image.mm, batch);
  // Who may not set the link to the program has it from its execve.
  restore_mm(image.mm, t_.inherited ? -1 : sent.exe, batch);
  if (sent.mounts >= 0)
    batch.must("enter the mount namespace of", SYS_setns, sent.mounts, CLONE_NEWNS);
  const image::FileEntry& root = t_.files.entry(image.fs.root_id());
  if (root.reg().name() != "/") {
    batch.must("set the root directory of", SYS_fchdir, sent.root);
    batch.must("set the root directory of", SYS_chroot, batch.text("."));
  }
  batch.must("set the working directory of", SYS_fchdir, sent.cwd);
  batch.must("set the umask of", SYS_umask, image.fs.umask());
  std::optional<SyscallBatch::Slot> login;
  if (sent.login >= 0) {
    std::string uid = std::to_string(
        userns::IdMap(t_.checkpoint.userns).uid_outside(core.loginuid(), "the login session"));
    login = batch.may(SYS_write, sent.login, batch.text(uid), uid.size());
  }
  place_descriptors(task, sent, batch);
  for (const files::Restorer::Watch& watch : t_.files.watches(image)) {
    struct __attribute__((packed)) {
      uint32_t events;
      uint64_t data;
    } event{watch.events, watch.data};
    constexpr int add = 1;  // EPOLL_CTL_ADD
    batch.must("watch the descriptors of", SYS_epoll_ctl, watch.epoll, add, watch.fd,
               batch.object(event));
  }
  if (core.personality() != 0)
    batch.must("set the personality of", SYS_personality, core.personality());
  if (core.child_subreaper())
    batch.must("make a subreaper of", SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  sysv::restore_undo(t_.checkpoint, image.tree.pid(), batch);
  for (uint32_t bit = 1; bit != 0; bit <<= 1)
    if (core.membarrier_registration_mask() & bit)
      batch.must("register membarrier of", SYS_membarrier, bit, 0, 0);
  files::take_locks(t_.checkpoint, image, batch);
  if (t_.inherited) lower_limits(core, kernel::read_file(proc_file(task.pid, "limits")), batch);
  t_.trampoline.run(task.leader().tracee, batch, task.name());
  UniqueFd proc = kernel::open(proc_file(task.pid, ""), O_PATH | O_DIRECTORY);
  if (t_.inherited) return lower_proc_values(core, proc.get(), t_.log);
  restore_limits(core, task.pid, task.name());
  t_.cgroups.enter(image.threads.front().thread_core().cg_set(), task.pid);
  restore_proc_values(core, proc.get(), t_.log);
  if (login && batch.result(*login) < 0)
    t_.log.warn("{}: its login uid stays unset: error {}", task.name(), -batch.result(*login));
}

void Revival::confine(LiveTask& task) {
  if (task.image->dead()) return;
  const image::TaskImage& image = *task.image;
  t_.cgroups.enter(image.threads.front().thread_core().cg_set(), task.pid);
  for (LiveThread& thread : task.threads) {
    bool leader = &thread == &task.leader();
    SyscallBatch batch;
    restore_thread_state(*thread.core, batch);
    restore_pending(thread.core->thread_core().signals_p(), task.leader().ns_tid, thread.ns_tid,
                    false, batch);
    std::vector<SyscallBatch::Slot> scheduling;
    if (t_.inherited) scheduling = restore_own_scheduling(thread.core->thread_core(), batch);
    confinement_.add(task, thread, batch);
    if (leader) {
      if (has_dead_child(t_.checkpoint, image)) {
        // Children that died while we made them have sent their signal anew.
        uint64_t child = uint64_t{1} << (SIGCHLD - 1);
        timespec now{};
        batch.may(SYS_rt_sigtimedwait, batch.object(child), nullptr, batch.object(now), 8);
      }
      restore_actions(image.threads.front(), batch);
      restore_pending(image.core().signals_s(), thread.ns_tid, thread.ns_tid, true, batch);
      if (image.mm.has_dumpable() && image.mm.dumpable() != 2)
        batch.must("set the dumpable flag of", SYS_prctl, PR_SET_DUMPABLE, image.mm.dumpable(), 0,
                   0, 0);
      restore_timers(image.core().timers(), batch);
    }
    t_.trampoline.run(thread.tracee, batch, task.name());
    if (!t_.inherited) restore_scheduling(thread.core->thread_core(), thread.tid, task.name());
    for (SyscallBatch::Slot call : scheduling)
      if (long error = batch.result(call); error < 0)
        t_.log.warn("{}: its scheduling is the new container's: error {}", task.name(), -error);
  }
  // Threads first: the leader unmaps the code that all of them stand on.
  for (auto thread = task.threads.rbegin(); thread != task.threads.rend(); ++thread) {
    const image::ThreadInfoX86& info = thread->core->thread_info();
    Registers fresh = thread->tracee.registers();
    if (&*thread == &task.leader()) {
      if (ignores_trap(image.threads.front())) {
        KernelSigaction ignore{1, 0, 0, 0};
        uint64_t at = t_.trampoline.stage(&ignore, sizeof ignore);
        t_.trampoline.run_traced(thread->tracee, "set the signal actions of", task.name(),
                                 SYS_rt_sigaction, {SIGTRAP, at, 0, 8});
      }
      t_.trampoline.run_traced(
          thread->tracee, "unmap the trampoline of", task.name(), SYS_munmap,
          {t_.trampoline.start(), t_.trampoline.end() - t_.trampoline.start()});
    }
    thread->tracee.set_xstate(load_xstate(info, thread->tracee.xstate()));
    thread->tracee.set_registers(load_registers(info, fresh));
    thread->tracee.set_signal_mask(thread->core->thread_core().has_blk_sigset()
                                       ? thread->core->thread_core().blk_sigset()
                                       : image.core().blk_sigset());
  }
}

}  // namespace stasis::engine
