#include "rpc/command_line.h"

#include <catch2/catch.hpp>

#include "base/error.h"
#include "rpc/option_names.h"

using namespace stasis;
using namespace stasis::rpc;

namespace {

CommandLine parse(std::vector<std::string> words) {
  words.insert(words.begin(), "criu");
  std::vector<char*> argv;
  for (auto& word : words) argv.push_back(word.data());
  int argc = static_cast<int>(argv.size());
  argv.push_back(nullptr);
  return parse_command_line(argc, argv.data(), "/nowhere/default.conf");
}

}  // namespace

TEST_CASE("the command line of CRIU's test driver", "[rpc]") {
  CommandLine line =
      parse({"dump", "--no-default-config", "--log-file", "dump.log", "--images-dir", "/img",
             "--verbosity=4", "--tree", "77", "--pidfile", "/tmp/p", "--external",
             "mnt[/dev]:ZDTM_DEV", "--timeout", "10", "--pre-dump-mode", "splice"});
  CHECK(line.words == std::vector<std::string>{"dump"});
  const Options& opts = line.settings.opts;
  CHECK(opts.pid() == 77);
  CHECK(opts.images_dir() == "/img");
  CHECK(opts.log_level() == 4);
  CHECK(opts.external(0) == "mnt[/dev]:ZDTM_DEV");
  CHECK(line.settings.log_path == "dump.log");
  CHECK(line.settings.pidfile == "/tmp/p");
  line = parse({"check", "--no-default-config", "-verbosity=0", "--feature", "mnt_id"});
  CHECK(line.settings.opts.log_level() == 0);
  CHECK(line.settings.features == std::vector<std::string>{"mnt_id"});
}

TEST_CASE("short options, abbreviations and negations", "[rpc]") {
  CommandLine line =
      parse({"-vv", "restore", "-dD", "/i", "-W/w", "-o", "-", "-M", "auto",
             "--manage-cgroups=soft", "--no-mntns-compat-mode", "--leave-run", "-S", "-j", "-l"});
  CHECK(line.words == std::vector<std::string>{"restore"});
  const Options& opts = line.settings.opts;
  CHECK(opts.log_level() == 4);
  CHECK(line.settings.detach);
  CHECK(opts.images_dir() == "/i");
  CHECK(line.settings.work_dir == "/w");
  CHECK(opts.auto_ext_mnt());
  CHECK(opts.manage_cgroups_mode() == SOFT);
  CHECK((opts.has_mntns_compat_mode() && !opts.mntns_compat_mode()));
  CHECK((opts.leave_running() && opts.rst_sibling() && opts.shell_job() && opts.file_locks()));
  CHECK(parse({"dump", "-v", "-v", "-v"}).settings.opts.log_level() == 5);
  CHECK(parse({"dump", "-v1"}).settings.opts.log_level() == 1);
  CHECK_FALSE(parse({"restore", "-d", "--no-restore-detached"}).settings.detach);
}

TEST_CASE("a wrong option is named with its neighbours", "[rpc]") {
  CHECK_THROWS_WITH(parse({"dump", "--extrenal", "x"}),
                    Catch::Contains("--external") || Catch::Contains("mean external"));
  CHECK_THROWS_WITH(parse({"dump", "--tree"}), Catch::Contains("needs a value"));
  CHECK_THROWS_WITH(parse({"dump", "--shell-job=1"}), Catch::Contains("takes no value"));
  CHECK_THROWS_WITH(parse({"dump", "-t", "none"}), Catch::Contains("tree"));
  CHECK_THROWS_WITH(parse({"dump", "--action-script", "/x"}),
                    Catch::Contains("--action-script") && Catch::Contains("support"));
  CHECK_THROWS_AS(parse({"dump", "-Q"}), Error);
}
