#include "engine/namespaces/cgroup_restorer.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>

#include "base/scope_exit.h"
#include "engine/namespaces/cgroup_dumper.h"
#include "engine/scratch_test.h"
#include "kernel/fs.h"

using namespace stasis;
using namespace stasis::engine;
using namespace stasis::engine::cgroup;
using Catch::Contains;

TEST_CASE("memberships and the root of a cgroup namespace in them") {
  auto members = parse_membership("9:name=systemd:/s\n4:cpu,cpuacct:/a/b\n0::/a/b\n", "process 7");
  REQUIRE(members.size() == 3);
  CHECK(members[0].name.empty());
  CHECK(members[1].name == "cpu,cpuacct");
  CHECK(members[2].name == "name=systemd");
  set_prefixes(members, "9:name=systemd:/s\n4:cpu,cpuacct:/b\n0::/\n");
  CHECK(members[0].prefix == 4);
  CHECK(members[1].prefix == 2);
  CHECK(members[2].prefix == 0);
  CHECK_THROWS_AS(set_prefixes(members, "0::/../x\n"), Error);
  CHECK_THROWS_WITH(parse_membership("0::/a (deleted)\n", "process 7"), Contains("process 7"));
  CHECK_THROWS_WITH(parse_membership("0::/../a\n", "process 7"), Contains("outside"));
}

TEST_CASE("cgroup paths") {
  CHECK(is_below("/a/b", "/a"));
  CHECK(is_below("/a", "/a"));
  CHECK(is_below("/a", "/"));
  CHECK_FALSE(is_below("/ab", "/a"));
  CHECK_FALSE(is_below("/a", "/a/b"));
  CHECK(common_directory("/a/b", "/a/c") == "/a");
  CHECK(common_directory("/a/b", "/a/b/c") == "/a/b");
  CHECK(common_directory("/a", "/ab") == "/");
  CHECK(common_directory("/", "/ab") == "/");
  CHECK(join("/", "a") == "/a");
  CHECK(join("/a", "/b") == "/a/b");
  CHECK(join("/a", "") == "/a");
  CHECK(join("/a", "/") == "/a");
  CHECK(join("/", "/") == "/");
  CHECK(relative("/") == ".");
  for (const char* good : {"/", "/a", "/a/b.scope"}) CHECK_NOTHROW(check_path(good));
  for (const char* bad : {"", "a", "/a/", "//a", "/..", "/a/../b", "/./a"})
    CHECK_THROWS_AS(check_path(bad), Error);
}

namespace {

const std::string top = "/sys/fs/cgroup/";

// The first v1 hierarchy that is mounted where usual, else v2.
struct Where {
  std::string mount, name;
};
std::vector<Where> usable() {
  std::vector<Where> found;
  for (const char* name : {"pids", "freezer", "cpuset"})
    if (access((top + name + "/cgroup.procs").c_str(), W_OK) == 0)
      found.push_back({top + name, name});
  if (access((top + "cgroup.controllers").c_str(), R_OK) == 0) found.push_back({top, ""});
  if (access((top + "unified/cgroup.procs").c_str(), W_OK) == 0)
    found.push_back({top + "unified", ""});
  return found;
}

bool ready() {
  if (geteuid() == 0 && !usable().empty()) return true;
  WARN("skipped: needs root and a cgroup file system at " << top);
  return false;
}

void make(const Where& where, const std::string& path) {
  std::filesystem::create_directory(where.mount + path);
  if (where.name != "cpuset") return;
  for (const char* file : {"/cpuset.cpus", "/cpuset.mems"})
    kernel::write_file(where.mount + path + file, kernel::read_file(where.mount + file));
}

void enter(const Where& where, const std::string& path, pid_t pid) {
  kernel::write_file(where.mount + path + "/cgroup.procs", std::to_string(pid));
}

struct Groups {
  explicit Groups(std::string base) : name(std::move(base)) {}
  ~Groups() {
    for (const Where& where : usable())
      for (const char* below : {"/sub/deep", "/sub", "/empty", "/job", ""})
        for (int i = 0;
             i < 50 && rmdir((where.mount + name + below).c_str()) != 0 && errno == EBUSY; ++i)
          usleep(2000);
  }
  std::string name;
};

pid_t sleeper(const std::function<void()>& first = [] {}) {
  int ends[2];
  REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
  pid_t pid = fork();
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    try {
      first();
    } catch (const std::exception& error) {
      fprintf(stderr, "child: %s\n", error.what());
      _exit(1);
    }
    if (write(ends[1], "", 1) != 1) _exit(1);
    for (;;) pause();
  }
  close(ends[1]);
  char byte = 0;
  CHECK(read(ends[0], &byte, 1) == 1);
  close(ends[0]);
  return pid;
}

void end(pid_t pid) {
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
}

std::string path_of(pid_t pid, const Where& where) {
  for (const Member& member :
       parse_membership(kernel::read_file("/proc/" + std::to_string(pid) + "/cgroup"), "a child"))
    if (member.name == where.name) return member.path;
  return "?";
}

image::Checkpoint checkpoint_of(const image::CgroupEntry& cgroup, uint32_t set,
                                bool own_namespace) {
  image::Checkpoint checkpoint;
  checkpoint.cgroup = cgroup;
  checkpoint.inventory.set_root_cg_set(1);
  checkpoint.inventory.mutable_root_ids()->set_cgroup_ns_id(8);
  checkpoint.tasks.resize(1);
  checkpoint.tasks[0].ids.set_cgroup_ns_id(own_namespace ? 9 : 8);
  checkpoint.tasks[0].threads.resize(1);
  checkpoint.tasks[0].threads[0].mutable_thread_core()->set_cg_set(set);
  return checkpoint;
}

image::CgroupEntry dump(pid_t root, pid_t other, uint32_t& root_set, uint32_t& other_set) {
  Scratch dir;
  DumpPlan plan;
  plan.root = root;
  namespaces::NsIds ids(root);
  Dumper dumper(plan, ids);
  root_set = dumper.set_of(root, root);
  other_set = dumper.set_of(other, other);
  CHECK(dumper.set_of(root, root) == root_set);
  image::ImageWriter writer(dir.fd());
  dumper.finish(writer);
  image::InventoryEntry inventory;
  inventory.set_img_version(image::image_version);
  writer.flush();
  writer.publish(inventory);
  return image::ImageDir::open(dir.fd()).one<image::CgroupEntry>("cgroup");
}

}  // namespace

TEST_CASE("processes come back into their cgroups, below another root") {
  if (!ready()) return;
  for (const Where& where : usable()) {
    INFO("hierarchy \"" << where.name << "\" at " << where.mount);
    Groups old("/ns-test-old"), now("/ns-test-new");
    for (const char* below : {"", "/sub", "/sub/deep", "/empty"}) make(where, old.name + below);
    pid_t root = sleeper(), other = sleeper();
    ScopeExit gone([&] {
      end(root);
      end(other);
    });
    enter(where, old.name, root);
    enter(where, old.name + "/sub/deep", other);
    uint32_t root_set = 0, other_set = 0;
    image::CgroupEntry image = dump(root, other, root_set, other_set);
    CHECK(root_set == 2);
    CHECK(other_set == 3);
    REQUIRE(image.sets_size() == 2);

    make(where, now.name);
    NullLog log;
    RestorePlan plan;
    plan.cgroup_roots[where.name] = now.name;
    if (where.name.empty()) plan.cgroup_roots["pids"] = "/";  // else it would speak of all
    image::Checkpoint checkpoint = checkpoint_of(image, root_set, false);
    {
      Restorer aborted(checkpoint, plan, log);
      CHECK(access((where.mount + now.name + "/sub/deep").c_str(), F_OK) == 0);
    }
    CHECK(access((where.mount + now.name + "/sub").c_str(), F_OK) != 0);
    CHECK(access((where.mount + now.name).c_str(), F_OK) == 0);

    Restorer restorer(checkpoint, plan, log);
    pid_t first = sleeper([&] { restorer.place_root(0); }), second = sleeper();
    ScopeExit ended([&] {
      end(first);
      end(second);
    });
    restorer.enter(other_set, second);
    restorer.enter_thread(root_set, second);
    restorer.enter_thread(other_set, second);
    restorer.commit();
    CHECK(path_of(first, where) == now.name);
    CHECK(path_of(second, where) == now.name + "/sub/deep");
    CHECK(access((where.mount + now.name + "/empty").c_str(), F_OK) == 0);
    CHECK_THROWS_AS(restorer.enter(99, second), Error);
    restorer.enter(0, second);  // stays
    CHECK(path_of(second, where) == now.name + "/sub/deep");
  }
}

TEST_CASE("a cgroup namespace comes back with its root, and we leave what is the container's") {
  if (!ready()) return;
  const Where where = usable().front();
  Groups old("/ns-test-old"), now("/ns-test-new"), job("/ns-test-job");
  for (const char* below : {"", "/sub"}) make(where, old.name + below);
  make(where, now.name);
  make(where, job.name);
  pid_t root = sleeper([&] {
    enter(where, old.name, getpid());
    kernel::must(unshare(CLONE_NEWCGROUP) == 0 ? 0 : -errno, "unshare");
    enter(where, old.name + "/sub", getpid());
  });
  ScopeExit gone([&] { end(root); });
  uint32_t root_set = 0, other_set = 0;
  image::CgroupEntry image = dump(root, root, root_set, other_set);
  CHECK(root_set == other_set);
  size_t prefix = 0;
  for (const auto& member : image.sets(0).ctls())
    if (member.name() == where.name) prefix = member.cgns_prefix();
  CHECK(prefix == old.name.size());

  // runc's way: the engine is put into the container's cgroup, a child of it
  // becomes the root task, and the engine leaves.
  image::Checkpoint checkpoint = checkpoint_of(image, root_set, true);
  pid_t caller = sleeper([&] {
    enter(where, job.name, getpid());
    pid_t engine_pid = sleeper([&] {
      enter(where, now.name, getpid());
      NullLog log;
      RestorePlan plan;
      plan.cgroup_roots[where.name] = now.name;
      plan.cgroup_roots["other"] = "/";
      Restorer restorer(checkpoint, plan, log);
      pid_t task = sleeper([&] {
        restorer.place_root(0);
        restorer.make_namespace();
        restorer.enter(root_set, 0);
      });
      restorer.leave();
      restorer.commit();
      if (path_of(task, where) != now.name + "/sub") throw Error("find", path_of(task, where));
      UniqueFd pidfd = kernel::pidfd_open(task);
      namespaces::NsIds ids(task);
      if (!ids.own(CLONE_NEWCGROUP)) throw Error("find", "a cgroup namespace");
      if (path_of(getpid(), where) != job.name) throw Error("leave", path_of(getpid(), where));
      kill(task, SIGKILL);
      waitpid(task, nullptr, 0);
    });
    int status = 0;
    bool alive = waitpid(engine_pid, &status, WNOHANG) == 0;
    kill(engine_pid, SIGKILL);
    waitpid(engine_pid, nullptr, 0);
    if (!alive) throw Error("run", "the engine's part");
  });
  int status = 0;
  CHECK(waitpid(caller, &status, WNOHANG) == 0);
  end(caller);
}

TEST_CASE("cgroup images that lie are refused") {
  if (!ready()) return;
  const Where where = usable().front();
  NullLog log;
  RestorePlan plan;
  auto image = [&](const char* path, uint32_t prefix, const char* directory) {
    image::CgroupEntry entry;
    auto& set = *entry.add_sets();
    set.set_id(2);
    auto& member = *set.add_ctls();
    member.set_name(where.name);
    member.set_path(path);
    member.set_cgns_prefix(prefix);
    auto& controller = *entry.add_controllers();
    controller.add_cnames(where.name);
    controller.add_dirs()->set_dir_name(directory);
    return entry;
  };
  for (auto [path, prefix, directory] : {std::tuple{"/../x", 0, ""},
                                         {"x", 0, ""},
                                         {"/x", 9, ""},
                                         {"/xy", 2, ""},
                                         {"/", 0, "../x"},
                                         {"/", 0, "a//b"}}) {
    INFO(path << " " << prefix << " " << directory);
    image::Checkpoint checkpoint =
        checkpoint_of(image(path, static_cast<uint32_t>(prefix), directory), 2, false);
    CHECK_THROWS_AS(Restorer(checkpoint, plan, log), Error);
  }
}
