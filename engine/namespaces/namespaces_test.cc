// Namespaces on real ones: a child in fresh namespaces is written down and
// another is filled from that.
#include "engine/namespaces/namespaces.h"

#include <fcntl.h>
#include <mqueue.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>

#include "base/scope_exit.h"
#include "base/text.h"
#include "engine/namespaces/ipc.h"
#include "engine/namespaces/net.h"
#include "engine/namespaces/timens.h"
#include "engine/namespaces/uts.h"
#include "engine/scratch_test.h"
#include "kernel/fs.h"

using namespace stasis;
using namespace stasis::engine;
using Catch::Contains;

namespace {

constexpr int most_kinds = CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWCGROUP;

bool root() {
  if (geteuid() == 0) return true;
  WARN("skipped: needs root to make namespaces");
  return false;
}

// A process that has run `action` and waits to be killed; what the action
// returns, or throws as "error: ...", is `said`.
class Child {
 public:
  explicit Child(const std::function<std::string()>& action) {
    int ends[2];
    REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
    pid = fork();
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      std::string answer;
      try {
        answer = action();
      } catch (const std::exception& error) {
        answer = std::string("error: ") + error.what();
      }
      // The null byte ends it: a child of the child may hold the pipe, too.
      if (write(ends[1], answer.c_str(), answer.size() + 1) < 0) _exit(1);
      for (;;) pause();
    }
    close(ends[1]);
    for (char byte = 0; read(ends[0], &byte, 1) == 1 && byte != 0;) said += byte;
    close(ends[0]);
  }
  ~Child() {
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  pid_t pid = 0;
  std::string said;
};

void enter_fresh(int flags) { kernel::must(unshare(flags) == 0 ? 0 : -errno, "unshare"); }

std::string lo_flags() {
  auto lo = net::read_loopback();
  return fmt::format("{} {}", (lo.flags() & IFF_UP) != 0 ? "up" : "down", lo.mtu());
}

// A checkpoint with nothing but namespaces, as load() would give it.
image::Checkpoint read_back(const Scratch& directory, const namespaces::NsIds& ids, pid_t pid) {
  image::Checkpoint checkpoint;
  auto dir = image::ImageDir::open(directory.fd());
  checkpoint.tasks.resize(1);
  ids.fill(pid, checkpoint.tasks[0].ids);
  ids.fill_engine(*checkpoint.inventory.mutable_root_ids());
  const auto& own = checkpoint.tasks[0].ids;
  checkpoint.uts = dir.maybe_one<image::UtsnsEntry>(fmt::format("utsns-{}", own.uts_ns_id()));
  checkpoint.ipc = dir.maybe_one<image::IpcVarEntry>(fmt::format("ipcns-var-{}", own.ipc_ns_id()));
  checkpoint.netns = dir.maybe_one<image::NetnsEntry>(fmt::format("netns-{}", own.net_ns_id()));
  checkpoint.netdevs = dir.all<image::NetDeviceEntry>(fmt::format("netdev-{}", own.net_ns_id()));
  checkpoint.timens = dir.maybe_one<image::TimensEntry>("timens-0");
  return checkpoint;
}

void publish(image::ImageWriter& writer) {
  image::InventoryEntry inventory;
  inventory.set_img_version(image::image_version);
  writer.flush();
  writer.publish(inventory);
}

}  // namespace

TEST_CASE("namespace ids: the engine's first, own ones after, equal ones equal") {
  if (!root()) return;
  Child child([] {
    enter_fresh(CLONE_NEWUTS | CLONE_NEWNET);
    return "";
  });
  namespaces::NsIds ids(child.pid);
  CHECK(ids.own() == (CLONE_NEWUTS | CLONE_NEWNET));
  image::TaskKobjIdsEntry task, engine;
  ids.fill(child.pid, task);
  ids.fill_engine(engine);
  CHECK(task.uts_ns_id() != engine.uts_ns_id());
  CHECK(task.net_ns_id() != engine.net_ns_id());
  CHECK(task.ipc_ns_id() == engine.ipc_ns_id());
  CHECK(task.pid_ns_id() == engine.pid_ns_id());
  CHECK(task.mnt_ns_id() == engine.mnt_ns_id());
  CHECK(engine.pid_ns_id() == 1);
  CHECK(ids.inode(CLONE_NEWPID) == namespaces::inodes_of(0)[0]);
  // A process elsewhere is refused by name.
  CHECK_THROWS_WITH(ids.fill(getpid(), task), Contains("a network namespace of its own"));
  Child unsharing([] {
    enter_fresh(CLONE_NEWPID);
    return "";
  });
  namespaces::NsIds others(unsharing.pid);
  CHECK_THROWS_WITH(others.fill(unsharing.pid, task), Contains("another pid namespace"));
}

TEST_CASE("uts, ipc and network namespaces are written down and come back") {
  if (!root()) return;
  Child child([] {
    enter_fresh(most_kinds);
    uts::restore([] {
      image::UtsnsEntry names;
      names.set_nodename("sleeper");
      names.set_domainname("dorm");
      return names;
    }());
    kernel::write_file("/proc/sys/kernel/msgmax", "12345");
    kernel::write_file("/proc/sys/kernel/sem", "100 200 30 40");
    kernel::write_file("/proc/sys/kernel/shm_next_id", "77");
    kernel::write_file("/proc/sys/fs/mqueue/msg_max", "11");
    kernel::write_file("/proc/sys/net/ipv4/ping_group_range", "0 0");
    auto lo = net::read_loopback();
    lo.set_flags(lo.flags() | IFF_UP);
    lo.set_mtu(9000);
    net::restore_loopback(lo);
    return lo_flags();
  });
  REQUIRE(child.said == "up 9000");
  namespaces::NsIds ids(child.pid);
  DumpPlan plan;
  plan.root = child.pid;
  plan.empty_netns = true;
  CHECK(namespaces::obstacles(plan, {child.pid}).empty());
  Scratch directory;
  NullLog log;
  {
    image::ImageWriter writer(directory.fd());
    UniqueFd pidfd = kernel::pidfd_open(child.pid);
    namespaces::SysvUse use;
    auto sysctls = namespaces::open_sysctls(plan, ids, pidfd.get());
    namespaces::dump(plan, ids, sysctls.get(), pidfd.get(), use, writer, log);
    publish(writer);
  }
  image::Checkpoint checkpoint = read_back(directory, ids, child.pid);
  REQUIRE(checkpoint.uts);
  CHECK(checkpoint.uts->nodename() == "sleeper");
  REQUIRE(checkpoint.ipc);
  CHECK(checkpoint.ipc->msg_ctlmax() == 12345);
  CHECK(checkpoint.ipc->shm_next_id() == 77);
  CHECK_FALSE(checkpoint.ipc->has_msg_next_id());
  REQUIRE(checkpoint.netdevs.size() == 1);
  REQUIRE(checkpoint.timens);

  RestorePlan restore;
  restore.empty_netns = true;
  auto layout = namespaces::layout(checkpoint, restore);
  CHECK(layout.clone_flags == (CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET));
  CHECK(layout.joins.empty());
  Child back([&] {
    enter_fresh(most_kinds);
    namespaces::restore(checkpoint, restore, getpid());
    utsname name{};
    uname(&name);
    auto words = [](const char* path) {
      std::string text = kernel::read_file(path), out;
      for (auto word : text::words(text)) out.append(word).append(" ");
      return out;
    };
    return fmt::format("{} {} {}{}{}{}{}{}", name.nodename, name.domainname,
                       words("/proc/sys/kernel/msgmax"), words("/proc/sys/kernel/sem"),
                       words("/proc/sys/kernel/shm_next_id"), words("/proc/sys/fs/mqueue/msg_max"),
                       words("/proc/sys/net/ipv4/ping_group_range"), lo_flags());
  });
  CHECK(back.said == "sleeper dorm 12345 100 200 30 40 77 11 0 0 up 9000");

  // An image of CRIU's with a network left to the runtime knows no loopback.
  checkpoint.netdevs.clear();
  checkpoint.netns.reset();
  Child up([&] {
    enter_fresh(most_kinds);
    namespaces::restore(checkpoint, restore, getpid());
    return lo_flags();
  });
  CHECK(up.said == "up 65536");
}

TEST_CASE("a loopback that was down stays down") {
  if (!root()) return;
  Child child([] {
    enter_fresh(CLONE_NEWNET);
    image::NetDeviceEntry lo = net::read_loopback();
    net::bring_loopback_up();
    std::string before = lo_flags();
    net::restore_loopback(lo);
    return before + ", " + lo_flags();
  });
  CHECK(child.said == "up 65536, down 65536");
}

TEST_CASE("what stands in a namespace's way is named") {
  if (!root()) return;
  Child child([] {
    enter_fresh(CLONE_NEWIPC);
    if (shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600) < 0) return "error: shmget";
    kernel::write_file("/proc/sys/kernel/shm_rmid_forced", "1");
    mq_attr attributes{};
    attributes.mq_maxmsg = 1;
    attributes.mq_msgsize = 8;
    mqd_t night = mq_open("/night", O_CREAT | O_RDWR, 0600, &attributes);
    mqd_t day = mq_open("/day", O_CREAT | O_RDWR, 0600, &attributes);
    sigevent nothing{};
    nothing.sigev_notify = SIGEV_NONE;
    if (night < 0 || day < 0 || mq_send(day, "x", 1, 0) != 0 || mq_notify(night, &nothing) != 0)
      return "error: mq_open";
    return "";
  });
  REQUIRE(child.said.empty());
  DumpPlan plan;
  plan.root = child.pid;
  std::string all;
  for (const Finding& finding : namespaces::obstacles(plan, {child.pid, getpid()}))
    all += finding.subject + ": " + finding.what + "\n";
  CHECK_THAT(all, Contains("holds shared memory segment 0 that nobody has attached"));
  CHECK_THAT(all, Contains("holds POSIX message queue /night of whose next message"));
  CHECK_THAT(all, !Contains("/day"));
  CHECK_THAT(all, Contains("namespace of its own\n"));
  Scratch directory;
  image::ImageWriter writer(directory.fd());
  NullLog log;
  UniqueFd pidfd = kernel::pidfd_open(child.pid);
  namespaces::SysvUse use;
  CHECK_THROWS_AS(
      namespaces::dump(plan, namespaces::NsIds(child.pid), nullptr, pidfd.get(), use, writer, log),
      Error);
}

TEST_CASE("external namespaces go by key and come back by descriptor") {
  if (!root()) return;
  Child child([] {
    enter_fresh(CLONE_NEWNET);
    return "";
  });
  namespaces::NsIds ids(child.pid);
  DumpPlan plan;
  plan.root = child.pid;
  plan.external_namespaces[ids.inode(CLONE_NEWNET)] = "extRootNetNS";
  Scratch directory;
  NullLog log;
  {
    image::ImageWriter writer(directory.fd());
    UniqueFd pidfd = kernel::pidfd_open(child.pid);
    namespaces::SysvUse use;
    auto sysctls = namespaces::open_sysctls(plan, ids, pidfd.get());
    namespaces::dump(plan, ids, sysctls.get(), pidfd.get(), use, writer, log);
    publish(writer);
  }
  image::Checkpoint checkpoint = read_back(directory, ids, child.pid);
  CHECK(checkpoint.netdevs.empty());
  RestorePlan restore;
  CHECK_THROWS_WITH(namespaces::layout(checkpoint, restore), Contains("extRootNetNS"));
  restore.inherited_fds["extRootNetNS"] = 9;
  auto layout = namespaces::layout(checkpoint, restore);
  CHECK(layout.clone_flags == 0);
  REQUIRE(layout.joins.size() == 1);
  CHECK(layout.joins[0].fd == 9);
  CHECK(layout.joins[0].flag == CLONE_NEWNET);
}

TEST_CASE("time namespace offsets of old and new kernels") {
  auto offsets =
      timens::parse_offsets("monotonic          -5 200000000\nboottime     7         0\n");
  CHECK(offsets.monotonic.tv_sec == -5);
  CHECK(offsets.monotonic.tv_nsec == 200000000);
  CHECK(offsets.boottime.tv_sec == 7);
  CHECK(timens::parse_offsets("1 3 4\n7 5 6\n").boottime.tv_nsec == 6);
  CHECK_THROWS_AS(timens::parse_offsets("monotonic 1 1\n"), Error);
  CHECK_THROWS_AS(timens::parse_offsets("monotonic 1\nboottime 1 1\n"), Error);
  CHECK_THROWS_AS(timens::parse_offsets("monotonic x 1\nboottime 1 1\n"), Error);
}

TEST_CASE("clocks go on where the image says, read from outside the same") {
  if (!root()) return;
  if (access("/proc/self/timens_offsets", F_OK) != 0) {
    WARN("skipped: this kernel has no time namespaces");
    return;
  }
  image::Checkpoint checkpoint;
  checkpoint.timens.emplace();
  checkpoint.timens->mutable_monotonic()->set_tv_sec(1000000);
  checkpoint.timens->mutable_monotonic()->set_tv_nsec(999999999);
  checkpoint.timens->mutable_boottime()->set_tv_sec(2000000);
  checkpoint.timens->mutable_boottime()->set_tv_nsec(1);
  // A child that prepares and its own child, which is in the namespace.
  Child child([&] {
    timens::prepare(checkpoint);
    auto* inner = new Child([] {  // dies with us
      timespec monotonic{}, boottime{};
      clock_gettime(CLOCK_MONOTONIC, &monotonic);
      clock_gettime(CLOCK_BOOTTIME, &boottime);
      return fmt::format("{} {}", monotonic.tv_sec, boottime.tv_sec);
    });
    return fmt::format("{} {}", inner->pid, inner->said);
  });
  auto words = text::words(child.said);
  REQUIRE(words.size() == 3);
  CHECK(words[1] == "1000001");
  CHECK(words[2] == "2000000");
  image::TimensEntry seen = timens::read(*text::to_int<pid_t>(words[0]));
  CHECK(seen.monotonic().tv_sec() == 1000001);
  CHECK(seen.boottime().tv_sec() == 2000000);
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  CHECK(timens::read(getpid()).monotonic().tv_sec() - static_cast<uint64_t>(now.tv_sec) <= 1);
}
