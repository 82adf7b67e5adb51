// What load() makes of CRIU's own images.
#include "engine/image/checkpoint.h"

#include <sched.h>

#include <algorithm>
#include <catch2/catch.hpp>

#include "engine/image/golden.h"
#include "kernel/fs.h"

using namespace stasis;
using namespace stasis::image;

namespace {

const MntEntry* mount_at(const Checkpoint& image, const std::string& path) {
  for (const MntEntry& mount : image.mounts.at(image.root().ids.mnt_ns_id()))
    if (mount.mountpoint() == path) return &mount;
  return nullptr;
}

const FileEntry& file_of(const Checkpoint& image, const TaskImage& task, uint32_t fd) {
  for (const FdinfoEntry& entry : task.fds)
    if (entry.fd() == fd) return image.files.at(entry.id());
  throw Error("find descriptor", std::to_string(fd));
}

}  // namespace

TEST_CASE("the demo container, as both CRIUs wrote it") {
  auto version = GENERATE(as<std::string>(), "criu-4.1.1", "criu-4.2");
  Checkpoint image = load(ImageDir::of(golden(version + "/demo")));

  CHECK(image.namespaces() ==
        (CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNS));
  REQUIRE(image.tasks.size() == 4);
  const TaskImage& init = image.root();
  CHECK(init.tree.pid() == 1);
  CHECK(init.core().comm() == "sh");
  CHECK_FALSE(init.dead());
  CHECK(init.core().rlimits().rlimits(7).cur() == 1024);  // RLIMIT_NOFILE
  const CredsEntry& creds = init.threads[0].thread_core().creds();
  CHECK(creds.cap_eff(0) == (1u << 29 | 1u << 10 | 1u << 5));  // as config.json says
  CHECK(creds.no_new_privs() == 1);
  CHECK(init.mm.vmas_size() == 11);
  CHECK(image.files.at(init.mm.exe_file_id()).reg().name() == "/bin/busybox");
  CHECK(image.files.at(init.fs.cwd_id()).reg().name() == "/");

  // The pipe between the two loops: one pipe_id, one end each.
  const TaskImage& counter = image.tasks[1];
  const TaskImage& writer = image.tasks[3];
  const FileEntry &in = file_of(image, counter, 1), &out = file_of(image, writer, 0);
  CHECK(in.type() == PIPE);
  CHECK(in.pipe().flags() == 1);  // O_WRONLY
  CHECK(out.pipe().flags() == 0);
  CHECK(in.pipe().pipe_id() == out.pipe().pipe_id());
  REQUIRE(image.pipes.size() == 1);
  CHECK(image.pipes[0].entry.pipe_id() == in.pipe().pipe_id());
  CHECK(image.pipes[0].entry.size() == 65536);
  CHECK(file_of(image, init, 0).reg().name() == "/dev/null");

  CHECK(mount_at(image, "/data")->ext_key() == "/data");
  CHECK(mount_at(image, "/etc/hosts")->ext_key() == "/etc/hosts");
  CHECK(mount_at(image, "/proc/keys")->ext_key() == "/dev/null");
  CHECK(mount_at(image, "/tmp")->fstype() == TMPFS);
  CHECK(mount_at(image, "/")->root().ends_with("/rootfs"));
  std::string archive =
      "tmpfs-dev-" + std::to_string(mount_at(image, "/tmp")->root_dev()) + ".tar.gz";
  CHECK(image.dir.has(archive));
  CHECK(kernel::read_all(image.dir.raw(archive).get(), archive).substr(0, 2) == "\x1f\x8b");

  REQUIRE((image.uts && image.ipc && image.timens));
  CHECK(image.uts->nodename() == "demo");
  CHECK(image.ipc->shm_ctlmni() == 4096);
  CHECK(image.timens->monotonic().tv_sec() > 0);
  REQUIRE(image.cgroup);
  CHECK(image.cgroup->sets_size() == 1);
  CHECK(init.threads[0].thread_core().cg_set() == image.cgroup->sets(0).id());
}

TEST_CASE("pages lie where the pagemap says, in either form of its count") {
  auto version = GENERATE(as<std::string>(), "criu-4.1.1", "criu-4.2");
  Checkpoint image = load(ImageDir::of(golden(version + "/demo")));
  for (const TaskImage& task : image.tasks) {
    uint64_t pages = 0;
    for (const PagemapEntry& entry : task.pagemap) pages += page_count(entry);
    CHECK(pages * page_size == image.dir.size("pages-" + std::to_string(task.pages_id)));
    CHECK(task.pagemap[0].has_nr_pages() == (version == "criu-4.2"));
  }
}

TEST_CASE("the multi-threaded container") {
  auto version = GENERATE(as<std::string>(), "criu-4.1.1", "criu-4.2");
  Checkpoint image = load(ImageDir::of(golden(version + "/threads")));
  REQUIRE(image.tasks.size() == 1);
  const TaskImage& task = image.root();
  REQUIRE(task.threads.size() == 9);
  CHECK(task.tree.threads_size() == 9);
  CHECK(task.threads[0].has_tc());
  CHECK(task.core().sigactions_size() == 62);
  CHECK(std::any_of(task.threads.begin(), task.threads.end(), [](const CoreEntry& core) {
    return core.thread_core().comm() == "third-one";
  }));
  for (size_t i = 1; i < task.threads.size(); ++i) {
    CHECK_FALSE(task.threads[i].has_tc());
    CHECK(task.threads[i].thread_info().gpregs().fs_base() != 0);
    CHECK(task.threads[i].thread_core().rseq_entry().rseq_abi_size() == 32);
  }
}

TEST_CASE("a directory without an inventory holds no checkpoint") {
  Images images = golden("criu-4.2/demo");
  images.erase("inventory");
  CHECK_THROWS_WITH(load(ImageDir::of(images)), Catch::Contains("inventory.img"));
}

TEST_CASE("a survey shows what load() refuses") {
  Images images = golden("criu-4.2/demo");
  CHECK(survey(ImageDir::of(images)).complaints.empty());
  images["mm-6"] = "junk";
  images["fdinfo-2"].resize(images["fdinfo-2"].size() - 1);
  images.erase("core-7");
  CHECK_THROWS_AS(load(ImageDir::of(images)), Error);
  Survey found = survey(ImageDir::of(images));
  REQUIRE(found.image.tasks.size() == 4);
  CHECK(found.image.root().core().comm() == "sh");
  CHECK(found.image.root().fds.empty());
  CHECK_FALSE(found.image.tasks[1].fds.empty());
  CHECK(found.image.tasks[1].mm.vmas_size() == 0);
  CHECK(found.image.mounts.at(found.image.root().ids.mnt_ns_id()).size() == 30);
  REQUIRE(found.complaints.size() == 3);
  CHECK(found.complaints[0].subject() == "fdinfo-2.img");
  CHECK(found.complaints[1].subject() == "mm-6.img");
  CHECK(found.complaints[2].subject() == "core-7.img");
}

TEST_CASE("a survey of a container whose tasks have mount namespaces of their own") {
  Images images = golden("criu-4.2/demo");
  Checkpoint whole = load(ImageDir::of(images));
  TaskKobjIdsEntry ids = whole.tasks[1].ids;
  ids.set_mnt_ns_id(77);
  std::string& file = images["ids-6"];
  std::string body = ids.SerializeAsString();
  auto size = static_cast<uint32_t>(body.size());
  file = file.substr(0, 8) + std::string(reinterpret_cast<const char*>(&size), 4) + body;
  images["mountpoints-77"] = images.at("mountpoints-13");
  Survey found = survey(ImageDir::of(images));
  CHECK(found.image.mounts.size() == 2);
  CHECK(found.image.mounts.at(77).size() == 30);
  REQUIRE(found.complaints.size() == 1);
  CHECK_THAT(found.complaints[0].what(), Catch::Contains("is in mountpoints-13.img, too"));
}

TEST_CASE("a survey of nothing but an inventory") {
  Images images = golden("criu-4.2/demo");
  Survey found = survey(ImageDir::of({{"inventory", images.at("inventory")}}));
  CHECK(found.image.tasks.empty());
  REQUIRE(found.complaints.size() == 1);
  CHECK(found.complaints[0].subject() == "pstree.img");
  CHECK_THROWS_AS(survey(ImageDir::of({})), Error);
}

TEST_CASE("a checkpoint loads from a directory as from memory") {
  UniqueFd dir = kernel::open(STASIS_FIXTURES "/images/criu-4.2/demo", O_RDONLY | O_DIRECTORY);
  CHECK(load(dir.get()).tasks.size() == 4);
}

TEST_CASE("every golden image has a text") {
  for (const auto& [stem, bytes] : golden("criu-4.1.1/demo")) {
    INFO(stem);
    std::string text = to_text(stem, bytes);
    CHECK_FALSE(text.empty());
    CHECK_THAT(text, !Catch::Contains("cannot") && !Catch::Contains("no known kind"));
  }
  CHECK_THAT(to_text("pstree", golden("criu-4.2/demo").at("pstree")),
             Catch::StartsWith("PstreeEntry {\n  pid: 1\n"));
  CHECK_THAT(to_text("pstree", "junk"), Catch::Contains("cannot read image pstree.img"));
}
