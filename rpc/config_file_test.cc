#include "rpc/config_file.h"

#include <catch2/catch.hpp>

#include "base/error.h"
#include "rpc/option_names.h"

using namespace stasis;
using namespace stasis::rpc;

TEST_CASE("a configuration file in CRIU's form", "[rpc]") {
  auto lines = parse_config(
      "# all of it\n"
      "\n"
      "tcp-established\n"
      "  work-dir \"/home/me/my \\\"work\\\" directory\"   # quoted\n"
      "no-restore-sibling   # a comment\n"
      "ghost-limit\t2M\r\n"
      "lsm-profile \"\"\n"
      "log-file dump#1.log",
      "runc.conf");
  REQUIRE(lines.size() == 6);
  CHECK(lines[0].option == "tcp-established");
  CHECK(lines[0].value.empty());
  CHECK(lines[0].number == 3);
  CHECK(lines[1].option == "work-dir");
  CHECK(lines[1].value == "/home/me/my \"work\" directory");
  CHECK(lines[2].option == "no-restore-sibling");
  CHECK(lines[2].value.empty());
  CHECK(lines[3].option == "ghost-limit");
  CHECK(lines[3].value == "2M");
  CHECK(lines[4].value.empty());
  CHECK(lines[5].value == "dump");  // as in CRIU, "#" needs no blank before it
}

TEST_CASE("a broken configuration file is refused with its line", "[rpc]") {
  CHECK_THROWS_WITH(parse_config("\nroot \"/a", "x.conf"),
                    Catch::Contains("x.conf:2") && Catch::Contains("quote"));
  CHECK_THROWS_WITH(parse_config("root /a /b", "x.conf"), Catch::Contains("x.conf:1"));
  CHECK_THROWS_WITH(parse_config("root \"/a\" /b", "x.conf"), Catch::Contains("x.conf:1"));
  CHECK_THROWS_WITH(parse_config("--root /a", "x.conf"), Catch::Contains("dashes"));
}

TEST_CASE("options by name reach the request", "[rpc]") {
  Settings settings;
  Options& opts = settings.opts;
  opts.set_images_dir_fd(7);
  apply_option(settings, "tcp-established", "");
  apply_option(settings, "no-shell-job", "");
  apply_option(settings, "manage-cgroups=strict", "");
  apply_option(settings, "external", "mnt[/a]:b");
  apply_option(settings, "ext-mount-map", "/etc/hosts:hosts");
  apply_option(settings, "inherit-fd", "fd[3]:pipe:[77]");
  apply_option(settings, "cgroup-root", "memory:/x");
  apply_option(settings, "cgroup-root", "/y");
  apply_option(settings, "ghost-limit", "2M");
  apply_option(settings, "images-dir", "/img");
  apply_option(settings, "verbosity", "");
  CHECK(opts.tcp_established());
  CHECK((opts.has_shell_job() && !opts.shell_job()));
  CHECK(opts.manage_cgroups_mode() == STRICT);
  CHECK(opts.external(0) == "mnt[/a]:b");
  CHECK(opts.ext_mnt(0).key() == "/etc/hosts");
  CHECK(opts.ext_mnt(0).val() == "hosts");
  CHECK(opts.inherit_fd(0).fd() == 3);
  CHECK(opts.inherit_fd(0).key() == "pipe:[77]");
  CHECK(opts.cg_root(0).ctrl() == "memory");
  CHECK(opts.cg_root(1).path() == "/y");
  CHECK(opts.ghost_limit() == 2u << 20);
  CHECK(opts.images_dir_fd() == -1);
  CHECK(opts.images_dir() == "/img");
  CHECK(opts.log_level() == 3);  // one more than the default

  CHECK_THROWS_AS(apply_option(settings, "no-such-thing", ""), Error);
  CHECK_THROWS_AS(apply_option(settings, "no-such-thing", "1"), Error);
  CHECK_THROWS_AS(apply_option(settings, "root", ""), Error);
  CHECK_THROWS_AS(apply_option(settings, "tcp-established", "1"), Error);
  CHECK_THROWS_AS(apply_option(settings, "timeout", "soon"), Error);
  CHECK_THROWS_AS(apply_option(settings, "ghost-limit", "9G"), Error);
  CHECK_THROWS_AS(apply_option(settings, "empty-ns", "mnt"), Error);
  CHECK_THROWS_AS(apply_option(settings, "inherit-fd", "3:x"), Error);
}
