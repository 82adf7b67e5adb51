#include "engine/mounts/mounts.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/error.h"
#include "engine/mounts/sandbox_test.h"
#include "engine/mounts/tree.h"
#include "kernel/mount_api.h"

using namespace stasis;
using namespace stasis::engine;
using namespace stasis::engine::mounts::test;

namespace {

void mount_at(const std::string& source, const std::string& target, const char* type,
              unsigned long flags = 0, const char* data = nullptr) {
  if (::mount(source.c_str(), target.c_str(), type, flags, data))
    throw Error("mount", source + " at " + target).with_errno(errno);
}
void bind_mount(const std::string& source, const std::string& target, unsigned long flags = 0) {
  mount_at(source, target, nullptr, MS_BIND);
  if (flags) mount_at("", target, nullptr, MS_BIND | MS_REMOUNT | flags);
}
void make_dir(const std::string& path) { std::filesystem::create_directories(path); }
void write_to(const std::string& path, const std::string& text) { std::ofstream(path) << text; }
std::string text_of(const std::string& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

// Host side: a root directory and sources.
struct Host {
  Scratch dir;
  std::string root = dir.path() + "/rootfs", data = dir.path() + "/data",
              file = dir.path() + "/hosts", image = dir.path() + "/image";
  Host() {
    for (const char* sub : {"proc", "dev", "sys", "tmp", "vol", "etc", "hidden/deep", "over"})
      make_dir(root + "/" + sub);
    make_dir(data + "/sub");
    make_dir(image);
    write_to(file, "127.0.0.1 me\n");
    write_to(root + "/etc/hosts", "");
    write_to(data + "/on-host", "1");
  }
  RestorePlan restore() const {
    RestorePlan plan;
    plan.root = root;
    plan.external_mounts = {{"/vol", data}, {"hosts", file}, {"/dev/null", "/dev/null"}};
    return plan;
  }
  std::map<std::string, std::string> keys() const {
    return {{"/vol", "/vol"}, {"/etc/hosts", "hosts"}, {"/proc/keys", "/dev/null"}};
  }
  void begin() const {
    mount_at("", "/", nullptr, MS_REC | MS_PRIVATE);
    bind_mount(root, root);
  }
  void enter() const {
    UniqueFd fd(::open(root.c_str(), O_PATH | O_CLOEXEC));
    kernel::replace_root(fd.get(), false);
  }
};

void make_nodes() {
  mknod("/dev/null", S_IFCHR | 0666, makedev(1, 3));
  mknod("/dev/tty", S_IFCHR | 0620, makedev(5, 0));
  mkfifo("/dev/initctl", 0600);
  if (symlink("/proc/self/fd", "/dev/fd") || symlink("pts/ptmx", "/dev/ptmx"))
    throw Error("link", "/dev/fd");
  chmod("/dev/null", 0666);
}

// What runc makes of `runc spec`, in its order.
void like_runc(const Host& host) {
  constexpr auto safe = MS_NOSUID | MS_NOEXEC | MS_NODEV;
  host.begin();
  const auto& root = host.root;
  mount_at("proc", root + "/proc", "proc");
  mount_at("tmpfs", root + "/dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k");
  for (const char* sub : {"pts", "shm", "mqueue"}) make_dir(root + "/dev/" + sub);
  write_to(root + "/dev/shm/beneath", "covered by a mount");
  mount_at("devpts", root + "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
           "newinstance,ptmxmode=0666,mode=0620");
  mount_at("shm", root + "/dev/shm", "tmpfs", safe, "mode=1777,size=65536k");
  mount_at("mqueue", root + "/dev/mqueue", "mqueue", safe);
  mount_at("sysfs", root + "/sys", "sysfs", safe | MS_RDONLY);
  bind_mount(host.data, root + "/vol", MS_NOSUID);
  bind_mount(host.file, root + "/etc/hosts", MS_RDONLY);
  host.enter();
  make_nodes();
  bind_mount("/proc/bus", "/proc/bus", MS_RDONLY | safe);
  bind_mount("/proc/sys", "/proc/sys", MS_RDONLY | safe);
  bind_mount("/dev/null", "/proc/keys");
  mount_at("tmpfs", "/sys/firmware", "tmpfs", MS_RDONLY);
  mount_at("tmpfs", "/tmp", "tmpfs", MS_NODEV);
  write_to("/dev/shm/note", "in shared memory");
}

struct Case {
  Host host;
  image::Checkpoint checkpoint;
  std::unique_ptr<Sandbox> before, after;

  explicit Case(void (*make)(const Host&), int more = 0) {
    before = std::make_unique<Sandbox>([&] { make(host); }, more);
    REQUIRE(before->outcome() == "ok");
    checkpoint = dump_to(host.image, plan_of(*before, host.keys()));
    after = rebuild(checkpoint, host.restore(), more);
    REQUIRE(after->outcome() == "ok");
  }
  void same() const { CHECK(picture(after->table()) == picture(before->table())); }
};

// Mounts on, over and beneath others.
void covered(const Host& host) {
  host.begin();
  const auto& root = host.root;
  mount_at("proc", root + "/proc", "proc");
  mount_at("below", root + "/hidden/deep", "tmpfs");
  write_to(root + "/hidden/deep/secret", "two mounts below");
  make_dir(root + "/hidden/deep/more");
  mount_at("under", root + "/hidden/deep/more", "tmpfs", 0, "size=1m");
  write_to(root + "/hidden/deep/more/even", "deeper");
  mount_at("above", root + "/hidden", "tmpfs");
  write_to(root + "/hidden/open", "above");
  mount_at("first", root + "/over", "tmpfs");
  write_to(root + "/over/file", "first");
  make_dir(root + "/over/sub");
  write_to(root + "/over/sub/part", "of first");
  bind_mount(root + "/over/sub", root + "/tmp", MS_RDONLY);
  mount_at("second", root + "/over", "tmpfs");
  write_to(root + "/over/file", "second");
  bind_mount(host.data, root + "/vol");
  bind_mount(root + "/vol/sub", root + "/etc", MS_NODEV | MS_NOATIME);
  host.enter();
}

// One line of mountinfo says enough of what stands where.
std::string text_beneath(const Sandbox& sandbox, const std::string& mountpoint,
                         const std::string& file, int layers) {
  int pipe_fds[2];
  REQUIRE(pipe(pipe_fds) == 0);
  Sandbox looker([&] {
    UniqueFd ns(::open(sandbox.path("/proc/1/ns/mnt").c_str(), O_RDONLY | O_CLOEXEC));
    if (setns(ns.get(), CLONE_NEWNS) || unshare(CLONE_NEWNS)) throw Error("enter", "the sandbox");
    mount_at("", "/", nullptr, MS_REC | MS_PRIVATE);
    for (; layers > 0; --layers) kernel::detach_mount(mountpoint);
    auto text = text_of(file);
    if (write(pipe_fds[1], text.data(), text.size()) < 0) throw Error("write", "");
  });
  REQUIRE(looker.outcome() == "ok");
  char text[200];
  close(pipe_fds[1]);
  auto n = read(pipe_fds[0], text, sizeof text);
  close(pipe_fds[0]);
  return {text, n > 0 ? static_cast<size_t>(n) : 0};
}

void with_peers(const Host& host) {
  host.begin();
  const auto& root = host.root;
  mount_at("proc", root + "/proc", "proc");
  mount_at("t", root + "/tmp", "tmpfs");
  make_dir(root + "/tmp/sub");
  mount_at("", root + "/tmp", nullptr, MS_SHARED);
  bind_mount(root + "/tmp", root + "/hidden");  // a peer
  bind_mount(root + "/tmp", root + "/over");    // a slave that is shared with others
  mount_at("", root + "/over", nullptr, MS_SLAVE);
  mount_at("", root + "/over", nullptr, MS_SHARED);
  bind_mount(root + "/over/sub", root + "/etc");  // its peer, of a part
  mount_at("u", root + "/sys", "tmpfs");
  mount_at("", root + "/sys", nullptr, MS_UNBINDABLE);
  host.enter();
}

bool skip() {
  if (geteuid() == 0) return false;
  WARN("skipped: needs root");
  return true;
}

}  // namespace

TEST_CASE("a tree as runc makes it comes back as it was") {
  if (skip()) return;
  Case test(like_runc);
  test.same();
  CHECK(text_of(test.after->path("/dev/shm/note")) == "in shared memory");
  CHECK(text_of(test.after->path("/etc/hosts")) == "127.0.0.1 me\n");
  CHECK(text_of(test.after->path("/vol/on-host")) == "1");
  struct stat null{};
  REQUIRE(stat(test.after->path("/dev/null").c_str(), &null) == 0);
  CHECK((S_ISCHR(null.st_mode) && null.st_rdev == makedev(1, 3) && (null.st_mode & 0777) == 0666));
  // Nothing was changed where it came from.
  CHECK(text_of(test.before->path("/dev/shm/note")) == "in shared memory");
}

TEST_CASE("mounts that others hide come back in their places with their content") {
  if (skip()) return;
  Case test(covered);
  test.same();
  CHECK(text_of(test.after->path("/over/file")) == "second");
  CHECK(text_of(test.after->path("/tmp/part")) == "of first");
  CHECK(text_beneath(*test.after, "/over", "/over/file", 1) == "first");
  CHECK(text_beneath(*test.after, "/hidden", "/hidden/deep/secret", 1) == "two mounts below");
  CHECK(text_beneath(*test.after, "/hidden", "/hidden/deep/more/even", 1) == "deeper");
}

TEST_CASE("peer groups, slaves and unbindable mounts come back") {
  if (skip()) return;
  Case test(with_peers);
  test.same();
}

TEST_CASE("an external mount exchanges mounts with its source again") {
  if (skip()) return;
  Host host;
  bool peers = GENERATE(false, true);
  // In a namespace that plays the host, for its shared mount.
  Sandbox all([&] {
    host.begin();
    mount_at("proc", "/proc", "proc");
    bind_mount(host.data, host.data);
    mount_at("", host.data, nullptr, MS_SHARED);
    Sandbox before([&] {
      bind_mount(host.root, host.root);
      bind_mount(host.data, host.root + "/vol");
      if (!peers) mount_at("", host.root + "/vol", nullptr, MS_SLAVE);
      mount_at("proc", host.root + "/proc", "proc");
      // The rest of the copied tree must not take the host's mounts with it.
      mount_at("", host.data, nullptr, MS_PRIVATE);
      host.enter();
    });
    if (before.outcome() != "ok") throw Error("make", before.outcome());
    auto checkpoint = dump_to(host.image, plan_of(before, host.keys()));
    auto after = rebuild(checkpoint, host.restore());
    if (after->outcome() != "ok") throw Error("rebuild", after->outcome());
    if (picture(after->table()) != picture(before.table()))
      throw Error("compare", fmt::format("{}", fmt::join(picture(after->table()), "; ")));
    auto find = [](const mountmap::MountTable& table, const std::string& place) {
      mountmap::Mount found;
      for (const auto& mount : table.mounts())
        if (mount.mountpoint == place) found = mount;
      return found;
    };
    auto source = find(mountmap::MountTable::read(getpid()), host.data);
    auto mount = find(after->table(), "/vol");
    if ((peers ? mount.shared : mount.master) != source.shared) throw Error("find", "the group");
    mount_at("late", host.data + "/sub", "tmpfs");
    if (!find(after->table(), "/vol/sub").id) throw Error("see", "a mount made on the host later");
  });
  CHECK(all.outcome() == "ok");
}

TEST_CASE("what is missing at a restore is said before anything is made") {
  if (skip()) return;
  Host host;
  Sandbox before([&] { like_runc(host); });
  REQUIRE(before.outcome() == "ok");
  auto checkpoint = dump_to(host.image, plan_of(before, host.keys()));
  auto plan = host.restore();
  NullLog log;
  plan.external_mounts["/vol"] = "/nonexistent/source";
  CHECK_THROWS_WITH(mounts::Builder(checkpoint, plan, log),
                    Catch::Contains("/vol") && Catch::Contains("/nonexistent/source") &&
                        Catch::Contains("No such file"));
  plan.external_mounts.erase("/vol");
  CHECK_THROWS_WITH(mounts::Builder(checkpoint, plan, log),
                    Catch::Contains("no source is given for its key \"/vol\""));
  plan.external_mounts["/vol"] = host.file;
  CHECK_THROWS_WITH(
      mounts::Builder(checkpoint, plan, log),
      Catch::Contains("/vol") && Catch::Contains("a file, but its mountpoint a directory"));
  // A source may be a symbolic link, as at creation.
  std::filesystem::create_symlink(host.data, host.dir.path() + "/link");
  plan.external_mounts["/vol"] = host.dir.path() + "/link";
  CHECK(rebuild(checkpoint, plan)->outcome() == "ok");
  // The root directory may have changed, and can't lead out of itself.
  std::filesystem::remove_all(host.root + "/vol");
  CHECK_THROWS_WITH(mounts::Builder(checkpoint, plan, log),
                    Catch::Contains("its mountpoint is missing"));
  std::filesystem::create_directory_symlink("/", host.root + "/vol");
  CHECK_THROWS_AS(mounts::Builder(checkpoint, plan, log), Error);
}

TEST_CASE("what could not be rebuilt is refused by name") {
  if (skip()) return;
  Host host;
  Sandbox before([&] {
    host.begin();
    mount_at("r", host.root + "/tmp", "ramfs");
    bind_mount(host.data, host.root + "/vol");
    host.enter();
  });
  REQUIRE(before.outcome() == "ok");
  auto plan = plan_of(before, host.keys());
  auto found = mounts::obstacles(plan);
  REQUIRE(found.size() == 1);
  CHECK_THAT(found[0].subject, Catch::Contains("/tmp"));
  CHECK_THAT(found[0].what, Catch::Contains("can't be mounted anew"));
  CHECK_THAT(found[0].remedy, Catch::Contains("mnt[/tmp]"));
  for (const auto& mount : plan.mounts.mounts())
    if (mount.fstype == "ramfs") plan.skipped_mounts.insert(mount.id);
  CHECK(mounts::obstacles(plan).empty());
  plan.external_mounts.clear();
  REQUIRE(mounts::obstacles(plan).size() == 1);
}

TEST_CASE("in a cgroup namespace the container's cgroups are its root") {
  if (skip()) return;
  Host host;
  mountmap::MountTable table = mountmap::MountTable::read(getpid());
  std::string hierarchy, type, options;
  for (const auto& mount : table.mounts())
    if (mount.root == "/" && (mount.fstype == "cgroup2" || mount.sb_options == "pids")) {
      hierarchy = mount.mountpoint;
      type = mount.fstype;
      options = mount.sb_options;
    }
  if (hierarchy.empty()) {
    WARN("skipped: no cgroup hierarchy");
    return;
  }
  std::string cgroup = hierarchy + "/mounts-test-" + std::to_string(getpid());
  std::filesystem::create_directory(cgroup);
  auto join = [&] {
    write_to(cgroup + "/cgroup.procs", "0");
    if (unshare(CLONE_NEWCGROUP)) throw Error("make", "a cgroup namespace");
  };
  {
    Sandbox before([&] {
      join();
      host.begin();
      mount_at("proc", host.root + "/proc", "proc");
      mount_at("cgroup", host.root + "/sys", type.c_str(), MS_RDONLY, options.c_str());
      host.enter();
    });
    REQUIRE(before.outcome() == "ok");
    auto checkpoint = dump_to(host.image, plan_of(before, {}));
    for (const auto& entry : checkpoint.mounts[1]) {
      if (entry.mountpoint() == "/sys") CHECK(entry.root() == "/");
    }
    auto plan = host.restore();
    NullLog log;
    mounts::Builder builder(checkpoint, plan, log);
    Sandbox after([&] {
      join();
      builder.build();
    });
    REQUIRE(after.outcome() == "ok");
    CHECK(picture(after.table()) == picture(before.table()));
  }
  std::filesystem::remove(cgroup);
}
