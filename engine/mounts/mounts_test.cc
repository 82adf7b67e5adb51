#include "engine/mounts/mounts.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#undef sigmask  // glibc's macro, a field of the image's SignalfdEntry
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
  TempDir dir;
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
    kernel::replace_root(fd.get());
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
