#include "rpc/plans.h"

#include <sched.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "base/error.h"
#include "rpc/externals.h"

using namespace stasis;
using namespace stasis::rpc;

TEST_CASE("the parts of an external", "[rpc]") {
  External net = parse_external("net[4026532281]:extRootNetNS");
  CHECK(net.kind == "net");
  CHECK(net.id == "4026532281");
  CHECK(net.value == "extRootNetNS");
  CHECK(parse_external("mnt[/a[1]b]:x").id == "/a[1]b");
  CHECK(parse_external("mnt[]").id.empty());
  CHECK(parse_external("mnt[]:ms").value == "ms");
  CHECK_THROWS_AS(parse_external("net"), Error);
  CHECK_THROWS_AS(parse_external("net[5"), Error);
}

TEST_CASE("a restore plan from runc's options", "[rpc]") {
  Options opts;
  opts.set_root("/run/runc/c/criu-root");
  opts.set_rst_sibling(true);
  opts.set_notify_scripts(true);
  opts.set_orphan_pts_master(true);
  opts.set_manage_cgroups(true);
  opts.set_empty_ns(CLONE_NEWNET);
  auto* mount = opts.add_ext_mnt();
  mount->set_key("/etc/hosts");
  mount->set_val("/srv/hosts");
  opts.add_external("mnt[vol]:/srv/vol");
  auto* root = opts.add_cg_root();
  root->set_ctrl("");
  root->set_path("/c");
  auto* fd = opts.add_inherit_fd();
  fd->set_key("pipe:[5]");
  fd->set_fd(STDOUT_FILENO);

  engine::RestorePlan plan = restore_plan(opts);
  CHECK(plan.root == "/run/runc/c/criu-root");
  CHECK(plan.sibling);
  CHECK(plan.orphan_pts_master);
  CHECK(plan.manage_cgroups);
  CHECK(plan.empty_netns);
  CHECK(plan.external_mounts ==
        std::map<std::string, std::string>{{"/etc/hosts", "/srv/hosts"}, {"vol", "/srv/vol"}});
  CHECK(plan.cgroup_roots == std::map<std::string, std::string>{{"", "/c"}});
  CHECK(plan.inherited_fds == std::map<std::string, int>{{"pipe:[5]", STDOUT_FILENO}});

  fd->set_fd(987654);
  CHECK_THROWS_WITH(restore_plan(opts), Catch::Contains("pipe:[5]"));
}

TEST_CASE("what can't be done is refused", "[rpc]") {
  NullLog log;
  Options opts;
  CHECK_THROWS_WITH(dump_plan(opts, log), Catch::Contains("pid"));
  opts.set_pid(getpid());
  CHECK(dump_plan(opts, log).root == getpid());
  CHECK_FALSE(dump_plan(opts, log).mounts.mounts().empty());

  auto refused = [&](auto change) {
    Options changed = opts;
    change(changed);
    CHECK_THROWS_AS(dump_plan(changed, log), Error);
  };
  refused([](Options& o) { o.set_lazy_pages(true); });
  refused([](Options& o) { o.set_track_mem(true); });
  refused([](Options& o) { o.set_leave_stopped(true); });
  refused([](Options& o) { o.mutable_ps()->set_port(1); });
  refused([](Options& o) { o.add_external("tty[5:6]"); });
  refused([](Options& o) { o.add_external("mnt[]:x"); });
  refused([](Options& o) { o.add_external("dev[5]:x"); });
  refused([](Options& o) { o.set_cgroup_props("x"); });
  refused([](Options& o) { o.set_empty_ns(CLONE_NEWIPC); });
  refused([](Options& o) { o.add_external("moo[5]:x"); });
  refused([](Options& o) { o.add_external("net[x]:x"); });
  refused([](Options& o) { o.set_pid(0x7ffffff0); });
  refused([](Options& o) { o.set_pid(-1); });
}

TEST_CASE("keys that stand for nothing", "[rpc]") {
  NullLog log;
  Options opts;
  opts.set_pid(getpid());
  opts.add_external("mnt[/no/such/place]:x");
  CHECK_NOTHROW(dump_plan(opts, log));
  CHECK_THROWS_WITH(dump_plan(opts, log, Keys::all_used), Catch::Contains("/no/such/place"));
}

TEST_CASE("every form of naming mounts at a restore", "[rpc]") {
  Options opts;
  opts.add_external("mnt[]:ms");
  opts.add_external("mnt[a b]:/srv/a b:c");
  opts.add_external("dev[loop]:/dev/loop7");
  opts.add_enable_fs("hugetlbfs,bpf");
  engine::RestorePlan plan = restore_plan(opts, Keys::all_used);
  CHECK(plan.root == "/");
  CHECK(plan.automatic_mounts);
  CHECK(plan.all_keys_used);
  CHECK(plan.external_mounts == std::map<std::string, std::string>{{"a b", "/srv/a b:c"}});
  CHECK(plan.external_devices == std::map<std::string, std::string>{{"loop", "/dev/loop7"}});
  CHECK(plan.enabled_fs == std::set<std::string>{"bpf", "hugetlbfs"});
}
