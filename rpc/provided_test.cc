// aufs without its kernel: a process whose root only says that it is aufs, and
// that has a file mapped by the path of a branch, as the kernel would tell it.
#include "rpc/provided.h"

#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <filesystem>

#include "base/error.h"
#include "engine/files/test_support.h"

using namespace stasis;
using namespace stasis::rpc;
using Catch::Matchers::Contains;
using engine::Scratch;
using engine::files::Child;
using engine::files::Written;

namespace {

class Lines : public Log {
 public:
  void write(LogLevel, std::string_view line) override { text += std::string(line) + "\n"; }
  std::string text;
};

// Docker's layout: a branch for the container, its -init, one of the image.
struct AufsTree {
  Scratch scratch;

  AufsTree() {
    for (const char* directory :
         {"diff/ID/bin", "diff/ID-init/bin", "diff/IMAGE/bin", "mnt/ID/bin", "sys/fs/aufs/si_ab"})
      std::filesystem::create_directories(scratch / directory);
    const char* branches[] = {"ID=rw", "ID-init=ro+wh", "IMAGE=ro+wh"};
    for (int i = 0; i < 3; ++i)
      put("sys/fs/aufs/si_ab/br" + std::to_string(i), scratch / "diff/" + branches[i] + "\n");
    put("diff/ID-init/bin/tool", "from a branch");
    put("mnt/ID/bin/tool", "from a branch");
  }
  void put(const std::string& name, const std::string& text) {
    engine::files::put(scratch / name, text);
  }
  std::string root() { return scratch / "mnt/ID"; }

  // Has bin/tool of the branch mapped, and mnt/ID as its root.
  void enter() {
    unshare(CLONE_NEWNS);
    mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
    mount(root().c_str(), root().c_str(), nullptr, MS_BIND, nullptr);
    void* at = mmap(place, 4096, PROT_READ, MAP_PRIVATE | MAP_FIXED, file, 0);
    if (chdir(root().c_str()) || syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH) ||
        chdir("/") || at != place)
      _exit(1);
  }
  static inline void* const place = reinterpret_cast<void*>(0x10000000);
  static constexpr int file = 1001;  // out of the way of Child
};

std::string mapping(const Child& child) {
  return fmt::format("/proc/{}/map_files/10000000-10001000", child.pid());
}

// The table with another type for its root.
void call_it_aufs(engine::DumpPlan& plan) {
  auto mounts = plan.mounts.mounts();
  for (auto& mount : mounts)
    if (mount.mountpoint == "/") {
      mount.fstype = "aufs";
      mount.source = "none";
      mount.sb_options = "si=ab,dio";
    }
  plan.mounts = mountmap::MountTable(std::move(mounts));
}

}  // namespace

TEST_CASE("a file mapped from a branch of aufs is one of the container's", "[rpc]") {
  if (!engine::files::may_examine()) return;
  AufsTree tree;
  UniqueFd branch_file = kernel::open(tree.scratch / "diff/ID-init/bin/tool", O_RDONLY);
  dup3(branch_file.get(), AufsTree::file, O_CLOEXEC);
  Child child([&] { tree.enter(); });
  ::close(AufsTree::file);
  REQUIRE(kernel::read_link(mapping(child)) == tree.scratch / "diff/ID-init/bin/tool");
  Lines log;
  int root = 0;
  auto as_aufs = [&](engine::DumpPlan& plan) {
    call_it_aufs(plan);
    describe_mounts(plugins::Providers(tree.scratch / "sys"), plan, log);
    root = plan.mounts.root().id;
  };
  SECTION("unchanged") {
    Written written({child.pid()}, mapping(child), as_aufs);
    const auto& reg = written.checkpoint.files.at(written.path_id).reg();
    CHECK(reg.name() == "/bin/tool");
    CHECK(reg.mnt_id() == root);
    CHECK(reg.size() == 13);
    CHECK(written.checkpoint.remaps.empty());
    std::string branches = "/sys/fs/aufs/si_ab/br0 : " + tree.scratch.path() + "/diff/ID\n" +
                           "/sys/fs/aufs/si_ab/br1 : " + tree.scratch.path() + "/diff/ID-init\n" +
                           "/sys/fs/aufs/si_ab/br2 : " + tree.scratch.path() + "/diff/IMAGE\n";
    CHECK(log.text == branches);
  }
  SECTION("copied up and changed since: the mapping has the old content") {
    tree.put("diff/ID/bin/tool", "changed");
    tree.put("mnt/ID/bin/tool", "changed");
    Written written({child.pid()}, mapping(child), as_aufs);
    CHECK(written.checkpoint.files.at(written.path_id).reg().name() == "/bin/tool");
    REQUIRE(written.checkpoint.remaps.size() == 1);
    image::Reader reader = written.checkpoint.dir.read("ghost-file-1");
    image::GhostFileEntry ghost;
    REQUIRE(reader.next(ghost));
    CHECK(reader.payload(reader.remaining()) == "from a branch");
  }
  SECTION("without knowledge of aufs it is refused") {
    CHECK_THROWS_WITH(Written({child.pid()}, mapping(child)), Contains("outside of the container"));
  }
}

TEST_CASE("the options of 2014 for aufs", "[rpc]") {
  engine::DumpPlan plan;
  plan.root = getpid();
  plan.mounts = mountmap::MountTable::parse(
      "90 61 0:33 / / rw,relatime - aufs none rw,si=4476a910a24617e6\n"
      "91 90 8:1 /docker/hosts /etc/hosts rw,relatime - ext4 /dev/sda1 rw,data=ordered\n"
      "92 90 0:33 /srv /data rw,relatime - aufs none rw,si=4476a910a24617e6\n");
  plan.external_mounts[91] = "/etc/hosts";
  Settings settings;
  Lines log;
  SECTION("the reference's device, source and options; the root where it is mounted") {
    settings.aufs = true;
    settings.aufs_root = "/";
    settings.aufs_ref = "/etc/hosts";
    apply_root_options(settings, plan, log);
    const engine::WrittenMount& root = plan.written_mounts.at(90);
    CHECK(root.major == 8);
    CHECK(root.minor == 1);
    CHECK(root.source == "/dev/sda1");
    CHECK(root.options == "data=ordered");
    CHECK(root.root == "/");
    CHECK(plan.written_mounts.at(92).root == "/srv");
    CHECK_FALSE(plan.written_mounts.contains(91));
    CHECK(log.text.empty());
  }
  SECTION("the root's place is known from Docker's layout") {
    settings.aufs_ref = "/etc/hosts";
    plan.provided_mounts[90] = {"aufs", "ab\n\n/docker/aufs/diff/ID=rw\n"};
    apply_root_options(settings, plan, log);
    CHECK(plan.written_mounts.at(90).root == "/docker/aufs/mnt/ID");
    CHECK(plan.written_mounts.at(92).root == "/docker/aufs/mnt/ID/srv");
  }
  SECTION("--root alone changes nothing") {
    settings.opts.set_root("/");
    apply_root_options(settings, plan, log);
    CHECK(plan.written_mounts.empty());
  }
  SECTION("another directory than the container's root is refused") {
    settings.opts.set_root("/tmp");
    CHECK_THROWS_WITH(apply_root_options(settings, plan, log), Contains("has another one"));
  }
  SECTION("a reference that is no mountpoint is refused") {
    settings.aufs_root = "/";
    settings.aufs_ref = "/etc/hostname";
    CHECK_THROWS_WITH(apply_root_options(settings, plan, log), Contains("nothing is mounted"));
    settings.aufs_root.clear();
    CHECK_THROWS_WITH(apply_root_options(settings, plan, log), Contains("isn't named"));
  }
  SECTION("where the root is no aufs they are of no effect, and the log says so") {
    settings.aufs_root = "/nowhere";
    plan.mounts = mountmap::MountTable::parse("1 0 8:1 / / rw - ext4 /dev/sda1 rw\n");
    apply_root_options(settings, plan, log);
    CHECK_THAT(log.text, Contains("no aufs"));
  }
}
