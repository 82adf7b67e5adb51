// A restore in place from top to bottom: wait for the program, look at all that
// the tasks need, take the init over, grow the tree, fill, confine, let go.

#include "engine/in_place.h"

#include <fmt/format.h>
#include <linux/ptrace.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include "engine/files/inet_address.h"
#include "engine/files/reopen.h"
#include "engine/files/restorer.h"
#include "engine/memory/vdso.h"
#include "engine/memory/vma.h"
#include "engine/mounts/contents.h"
#include "engine/mounts/hidden.h"
#include "engine/namespaces/namespaces.h"
#include "engine/namespaces/sysv.h"
#include "engine/namespaces/timens.h"
#include "engine/namespaces/userns.h"
#include "engine/stopwatch.h"
#include "engine/tasks/controlling_terminal.h"
#include "engine/tasks/foothold.h"
#include "engine/tasks/needed_calls.h"
#include "engine/tasks/pid_chooser.h"
#include "engine/tasks/processor.h"
#include "engine/tasks/revive.h"
#include "engine/tasks/seccomp.h"
#include "engine/tasks/seccomp_rules.h"
#include "kernel/fs.h"
#include "kernel/proc_maps.h"
#include "kernel/proc_status.h"
#include "kernel/tty.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

namespace stasis::engine {

namespace {

constexpr long options =
    PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXEC | PTRACE_O_SUSPEND_SECCOMP;

std::string proc_file(pid_t pid, const char* name) { return fmt::format("/proc/{}/{}", pid, name); }

std::vector<std::pair<uint64_t, uint64_t>> taken_addresses(const image::Checkpoint& checkpoint,
                                                           pid_t init) {
  auto taken = Revival::taken_addresses(checkpoint);
  for (const auto& area : kernel::parse_maps(kernel::read_file(proc_file(init, "maps"))))
    taken.emplace_back(area.start, area.end);
  return taken;
}

// Both ends of a pipe in the image: it is the container's own.
bool is_internal(const image::Checkpoint& checkpoint, uint32_t pipe_id) {
  bool reads = false, writes = false;
  for (const auto& [id, file] : checkpoint.files) {
    if (file.type() != image::PIPE || file.pipe().pipe_id() != pipe_id) continue;
    uint32_t mode = file.pipe().flags() & O_ACCMODE;
    reads |= mode != O_WRONLY;
    writes |= mode != O_RDONLY;
  }
  return reads && writes;
}

// Standard input and output that the dumped container had from its runtime are
// those that the new one has from its own.
class Stdio {
 public:
  Stdio(const image::Checkpoint& checkpoint, pid_t init, RestorePlan& plan) {
    UniqueFd pidfd = kernel::pidfd_open(init);
    for (const image::FdinfoEntry& fd : checkpoint.root().fds) {
      auto file = checkpoint.files.find(fd.id());
      if (fd.fd() > 2 || file == checkpoint.files.end()) continue;
      long copy = kernel::call(SYS_pidfd_getfd, pidfd.get(), fd.fd(), 0);
      if (copy < 0) continue;  // closed: then as the image has it
      UniqueFd mine(static_cast<int>(copy));
      const image::FileEntry& entry = file->second;
      if (entry.type() == image::PIPE && !is_internal(checkpoint, entry.pipe().pipe_id())) {
        std::string key = fmt::format("pipe:[{}]", entry.pipe().pipe_id());
        if (plan.inherited_fds.emplace(key, mine.get()).second) pipes_.push_back(std::move(mine));
      } else if (entry.type() == image::FIFO ||
                 (entry.type() == image::REG &&
                  (entry.reg().ext() || entry.reg().name() == "/dev/null"))) {
        others_.emplace(fd.id(), std::move(mine));
      }
    }
  }
  void give_to(files::Restorer& files) {
    for (auto& [id, fd] : others_) files.give(id, std::move(fd));
  }
  void close() { pipes_.clear(); }

 private:
  std::vector<UniqueFd> pipes_;
  std::map<uint32_t, UniqueFd> others_;
};

// The terminal that the new container has from its runtime, which keeps the other
// end, takes the place of the dumped one's.
void find_console(const image::Checkpoint& checkpoint, pid_t init, const RestorePlan& plan,
                  files::Restorer& files) {
  std::set<files::PtyId> consoles;
  UniqueFd pidfd = kernel::pidfd_open(init);
  for (int fd = 0; fd <= 2; ++fd) {
    long copy = kernel::call(SYS_pidfd_getfd, pidfd.get(), fd, 0);
    if (copy < 0) continue;
    UniqueFd mine(static_cast<int>(copy));
    struct statx stat = kernel::stat_fd(mine.get());
    if (!S_ISCHR(stat.stx_mode) || stat.stx_rdev_major != kernel::pty_slave_major) continue;
    for (const image::TtyInfoEntry& info : checkpoint.terminals)
      if (info.type() == image::PTY && info.pty().index() == stat.stx_rdev_minor)
        consoles.insert({info.dev(), info.pty().index()});
  }
  files.terminals().find_there(files::check_terminals(checkpoint, plan, consoles));
}

// The program that a task runs is that of its last execve: where it isn't the
// image's, that one is executed, and given up before its first instruction.
class Programs {
 public:
  Programs(files::Restorer& files, Trampoline& trampoline, FdSender& sender)
      : files_(files), trampoline_(trampoline), sender_(sender) {}

  bool runs(pid_t pid, const image::TaskImage& image) {
    struct stat now{};
    kernel::must(kernel::call(SYS_newfstatat, AT_FDCWD, proc_file(pid, "exe").c_str(), &now, 0),
                 "look at the program of", fmt::format("process {}", pid));
    struct statx wanted = kernel::stat_fd(files_.get(image.mm.exe_file_id()));
    return now.st_ino == wanted.stx_ino && major(now.st_dev) == wanted.stx_dev_major &&
           minor(now.st_dev) == wanted.stx_dev_minor;
  }

  void change(LiveTask& task) {
    if (task.image->dead() || runs(task.pid, *task.image)) return;
    change(task.leader().tracee, *task.image, task.name());
    task.memory = nullptr;
  }

  // The task has the trampoline, before and after.
  void change(Tracee& tracee, const image::TaskImage& image, const std::string& who) {
    SyscallBatch receive;
    sender_.send({files_.get(image.mm.exe_file_id())}, receive);
    trampoline_.run(tracee, receive, who);
    uint64_t empty[2] = {0, 0};
    uint64_t text = trampoline_.stage(&empty, sizeof empty);  // "", and an empty list
    constexpr uint64_t at_empty_path = AT_EMPTY_PATH;
    trampoline_.run_traced(tracee, "execute the program of", who, SYS_execveat,
                           {0, text, text + 8, text + 8, at_empty_path});
    gain_foothold(tracee, trampoline_, sender_, true, who);
  }

 private:
  files::Restorer& files_;
  Trampoline& trampoline_;
  FdSender& sender_;
};

// Filters of the image that the init has from config.json.
std::set<int> inherited_filters(const image::Checkpoint& checkpoint, const Tracee& init,
                                const kernel::ProcStatus& status) {
  std::set<int> same;
  if (status.seccomp == 0 || !checkpoint.seccomp) return same;
  std::vector<std::string> programs = seccomp_programs(init);
  for (int i = 0; i < checkpoint.seccomp->seccomp_filters_size(); ++i)
    for (const std::string& program : programs)
      if (same_rules(checkpoint.seccomp->seccomp_filters(i).filter(), program)) same.insert(i);
  return same;
}

bool needs_ids(const image::Checkpoint& checkpoint) {
  return checkpoint.tasks.size() > 1 || checkpoint.root().threads.size() > 1;
}

void check_init(pid_t init) {
  auto status = kernel::parse_status(kernel::read_file(proc_file(init, "status")));
  if (status.ns_pid.size() < 2 || status.ns_pid.back() != 1)
    throw Error("restore", "the container")
        .because("it has no pid namespace of its own, in which process ids would be free")
        .hint("give it one in config.json");
}

// Images hold ids as seen inside; files and limits go by those outside.
void check_ids(const image::Checkpoint& checkpoint, pid_t init) {
  auto text = [](const std::optional<image::UsernsEntry>& maps) {
    return maps ? userns::to_text(maps->uid_map()) + "/" + userns::to_text(maps->gid_map()) : "";
  };
  if (text(userns::IdMap::of(init).maps()) != text(checkpoint.userns))
    throw Error("restore", "the container")
        .because("the ids of its users aren't mapped as they were at the checkpoint")
        .hint("give it the user namespace, uidMappings and gidMappings of then");
}

// A program that has to know that it isn't the only one of its memory.
void tell_clone(pid_t init, int signal, Log& log) {
  if (signal == 0) return;
  auto status = kernel::parse_status(kernel::read_file(proc_file(init, "status")));
  uint64_t bit = uint64_t{1} << (signal - 1);
  if (!((status.caught | status.blocked) & bit))
    log.warn("The first process has no handler for signal {}: it isn't told that it is a clone",
             signal);
  kernel::must(kernel::call(SYS_kill, init, signal), "send the clone signal to", "process 1");
}

void check_clocks(const image::Checkpoint& checkpoint, pid_t init, Log& log) {
  constexpr double noticed = 1;  // seconds
  double ahead = timens::ahead_of(checkpoint, init);
  if (ahead < 0)
    throw Error("restore", "the container")
        .because(
            "its monotonic clock would go backwards: the machine was booted since the "
            "checkpoint, and the container could not get clocks of its own")
        .hint("a kernel with CONFIG_TIME_NS, Linux 6.3 or newer, is needed");
  if (ahead > noticed) log.warn("The container's monotonic clock jumps by {:.0f} s", ahead);
}

void check_container(const image::Checkpoint& checkpoint, pid_t init, Log& log) {
  check_init(init);
  check_ids(checkpoint, init);
  check_clocks(checkpoint, init, log);
}

void stop_after_exec(Tracee& init) {
  init.set_options(options);
  init.to_syscall_stop();
  init.set_signal_mask(all_but_faults);
}

}  // namespace

void check_in_place(image::Checkpoint& checkpoint) {
  LiveTree::check(checkpoint);
  needed_calls::check(checkpoint);
  fit_vdso(checkpoint, Revival::taken_addresses(checkpoint));
  if (std::string lacks = processor::missing(checkpoint); !lacks.empty())
    throw Error("restore", "the container in place")
        .because("this processor lacks instructions that the checkpoint's had: " + lacks)
        .hint("start it on a machine with such a processor");
  auto refuse = [](const std::string& cause, const std::string& remedy) {
    throw Error("restore", "the container in place").because(cause).hint(remedy);
  };
  if (checkpoint.root().tree.pid() != 1)
    refuse(fmt::format("its first process had id {}, not 1", checkpoint.root().tree.pid()),
           "checkpoint a container that has its own pid namespace");
  if (checkpoint.mounts.size() > 1)
    refuse("processes of it had mount namespaces of their own",
           "use stasis restore for this checkpoint");
  const image::TaskKobjIdsEntry& ids = checkpoint.root().ids;
  for (const image::TaskImage& task : checkpoint.tasks)
    if (!task.dead() &&
        (task.ids.mnt_ns_id() != ids.mnt_ns_id() || task.ids.net_ns_id() != ids.net_ns_id() ||
         task.ids.pid_ns_id() != ids.pid_ns_id()))
      refuse(fmt::format("process {} had namespaces of its own", task.tree.pid()),
             "use stasis restore for this checkpoint");
  for (const image::TaskImage& task : checkpoint.tasks)
    if (!task.dead() && checkpoint.files.at(task.mm.exe_file_id()).type() == image::MEMFD)
      refuse(fmt::format("process {} runs a program that lies in memory only", task.tree.pid()),
             "use stasis restore for this checkpoint");
  for (const image::TaskImage& task : checkpoint.tasks)
    if (task.tree.sid() == 0 || task.tree.pgid() == 0)
      refuse(fmt::format("process {} belongs to a session outside of it", task.tree.pid()),
             "start the container detached, or with a terminal of its own");
  for (const auto& [id, file] : checkpoint.files)
    if (file.type() == image::INETSK && files::is_connection(file.isk()) &&
        file.isk().state() != TCP_CLOSE && !checkpoint.inventory.tcp_close())
      refuse("it holds the TCP connection " + files::ends_of(file.isk()).text(),
             "checkpoint with --tcp-close, or use stasis restore for this checkpoint");
  for (const mounts::HiddenFile& hidden : mounts::hidden_files(checkpoint))
    refuse(fmt::format("file {} is open, over which something was mounted",
                       checkpoint.files.at(hidden.file).reg().name()),
           "use stasis restore for this checkpoint");
}

bool follow_to_program(StartHold& hold, const image::Checkpoint& checkpoint, Log& log) {
  bool clocks = false;
  return hold.wait_for_program(
      [&] {
        if (!checkpoint.timens || !timens::entered_by_exec()) return;
        long made = hold.system_call(SYS_unshare, {CLONE_NEWTIME});
        clocks = made == 0;
        if (!clocks) log.info("No time namespace for the container: error {}", -made);
      },
      [&] {
        if (clocks) timens::set_clocks(checkpoint, hold.init());
      });
}

RestoreResult restore_in_place(StartHold& hold, const image::Checkpoint& checkpoint,
                               const InPlacePlan& wanted, Log& log) {
  Stopwatch watch;
  pid_t init = hold.init();
  Tracee& tracee = hold.tracee();
  stop_after_exec(tracee);
  check_container(checkpoint, init, log);

  RestorePlan plan;
  plan.manage_cgroups = false;  // they are the runtime's
  Stdio stdio(checkpoint, init, plan);
  files::Restorer files(checkpoint, plan, log);
  UniqueFd root = kernel::open(proc_file(init, "root"), O_PATH);
  files.set_root(root.get());
  UniqueFd network = kernel::open(proc_file(init, "ns/net"), O_RDONLY);
  files.set_network(network.get());
  files.connections().hold(files);
  stdio.give_to(files);
  find_console(checkpoint, init, plan, files);
  mounts::fill_empty(checkpoint, root.get(), init, log);
  userns::CreateAsRoot create_as_root{userns::IdMap(checkpoint.userns)};
  cgroup::Restorer cgroups(checkpoint, plan, log);
  Trampoline trampoline(taken_addresses(checkpoint, init));
  FdSender sender(Revival::sender_number(checkpoint));
  PageCopier copier(plan.workers);
  auto status = kernel::parse_status(kernel::read_file(proc_file(init, "status")));
  Inherited inherited{inherited_filters(checkpoint, tracee, status)};
  const std::map<uint32_t, UniqueFd> nested;  // none: see check_in_place()
  Revival revival(
      {checkpoint, plan, trampoline, sender, files, cgroups, nested, copier, log, &inherited});
  std::optional<image::IpcVarEntry> ipc_limits;
  if (sysv::has_objects(checkpoint))
    ipc_limits = namespaces::fill_ipc(checkpoint, init, plan.workers);
  revival.open_files();  // what is missing is named before the init is touched

  std::string name = "the container's first process";
  gain_foothold(tracee, trampoline, sender, false, name);
  Programs programs(files, trampoline, sender);
  if (!programs.runs(init, checkpoint.root())) programs.change(tracee, checkpoint.root(), name);
  ControllingTerminals terminals(files, trampoline, sender);
  std::optional<PidChooser> ids;
  if (needs_ids(checkpoint)) ids.emplace(init);
  LiveTree tree(checkpoint, trampoline,
                {.root_pgid = status.ns_pgid.back(),
                 .root_sid = status.ns_sid.back(),
                 .choose_id = ids ? [&](pid_t id) { ids->next(id); } : std::function<void(pid_t)>(),
                 .born = [&](LiveTask& task) { programs.change(task); },
                 .before_children = [&](LiveTask& task) { revival.bequeath(task); },
                 .leads = [&](LiveTask& task) { terminals.give(task); }});
  tree.grow(std::move(tracee), init);
  terminals.finish(tree);
  revival.fill(tree, [](uint64_t, uint64_t) {});
  if (ipc_limits) namespaces::finish_ipc(checkpoint, *ipc_limits, init);
  stdio.close();
  for (LiveTask& task : tree.tasks())
    if (!task.image->dead()) tree.grow_threads(task);
  ids.reset();
  for (LiveTask& task : tree.tasks()) revival.confine(task);
  tell_clone(init, wanted.clone_signal, log);

  files.connections().release(checkpoint.inventory.dump_criu_run_id());
  RestoreResult result;
  result.root = init;
  result.restore_us = watch.microseconds();
  log.info("Restored in place in {} us: process {} goes on", result.restore_us, init);
  // As long as we hold the init our death is the container's: the runtime never
  // takes a running one for one that isn't.
  hold.commit();
  tree.release();
  return result;
}

}  // namespace stasis::engine
