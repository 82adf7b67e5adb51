#include "hook/hook.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "base/unique_fd.h"
#include "hook/record.h"
#include "kernel/fs.h"

using namespace stasis;
namespace fs = std::filesystem;

namespace {

struct Bench {
  fs::path path;
  Bench() {
    char name[] = "/tmp/stasis-hook-XXXXXX";
    path = mkdtemp(name);
    fs::create_directories(path / "bundle/rootfs");
    std::ofstream(path / "hosts") << "127.0.0.1";
    std::ofstream(path / "bundle/config.json")
        << R"({"root":{"path":"rootfs"},"mounts":[{"destination":"/etc/hosts","type":"bind",)"
        << R"("source":")" << (path / "hosts").string() << R"("}]})";
  }
  ~Bench() { fs::remove_all(path); }

  std::string state(pid_t pid, const std::string& bundle = "bundle") const {
    return R"({"id":"web","status":"creating","pid":)" + std::to_string(pid) + R"(,"bundle":")" +
           (path / bundle).string() + "\"}";
  }
  auto sources(pid_t init) const { return hook::load_record((path / "run").string(), "web", init); }
  fs::path record() const { return path / "run/web/mountmap.json"; }

  // The error, or nothing.
  std::string run(const std::string& phase, const std::string& input) const {
    std::ofstream(path / "stdin") << input;
    UniqueFd in(open((path / "stdin").c_str(), O_RDONLY | O_CLOEXEC));
    NullLog log;
    try {
      hook::run(phase, in.get(), log, {}, (path / "run").string());
    } catch (const Error& error) {
      return error.what();
    }
    return {};
  }
};

mode_t mode(const fs::path& path) {
  struct stat stat{};
  REQUIRE(::stat(path.c_str(), &stat) == 0);
  return stat.st_mode & 07777;
}

}  // namespace

TEST_CASE("a record comes, is kept for root alone, is renewed and goes") {
  Bench bench;
  for (const char* phase : {"createRuntime", "prestart", "createRuntime", "createContainer"})
    CHECK(bench.run(phase, bench.state(getpid())).empty());
  CHECK(mode(bench.record()) == 0600);
  CHECK(mode(bench.path / "run/web") == 0700);
  CHECK(mode(bench.path / "run") == 0700);
  auto sources = bench.sources(getpid());
  auto now = mountmap::identify(bench.path / "hosts");
  CHECK(sources.value_or(mountmap::SourceRecord{})
            .at("/etc/hosts")
            .same_file(now.value_or(mountmap::FileIdentity{})));
  // What a killed hook leaves goes too.
  std::ofstream(bench.record().string() + ".99") << "half";
  for (int time = 0; time < 2; ++time) {
    CHECK(bench.run("poststop", bench.state(getpid())).empty());
    CHECK_FALSE(fs::exists(bench.path / "run/web"));
  }
  CHECK_FALSE(bench.sources(getpid()));
}

TEST_CASE("a record of another boot tells nothing") {
  Bench bench;
  CHECK(bench.run("createRuntime", bench.state(getpid())).empty());
  std::ofstream(bench.record()) << R"({"boot_id":"of another","mounts":[]})";
  CHECK_FALSE(bench.sources(getpid()));
}

TEST_CASE("a container leaves the record of a living one of its name alone") {
  Bench bench;
  pid_t other = fork();
  if (other == 0)
    for (;;) pause();
  CHECK(bench.run("createRuntime", bench.state(other)).empty());
  CHECK(bench.sources(other));
  for (const char* phase : {"createRuntime", "poststart", "poststop"}) {
    CHECK(bench.run(phase, bench.state(getpid())).empty());
    CHECK(bench.sources(other));
    CHECK_FALSE(bench.sources(getpid()));
  }
  CHECK(bench.run("poststop", bench.state(0)).empty());
  CHECK(bench.sources(other));
  // Also while nobody has reaped it.
  kill(other, SIGKILL);
  siginfo_t end{};
  waitid(P_PID, static_cast<id_t>(other), &end, WEXITED | WNOWAIT);
  CHECK_FALSE(bench.sources(other));
  CHECK(bench.run("createRuntime", bench.state(getpid())).empty());
  CHECK(bench.sources(getpid()));
  waitpid(other, nullptr, 0);
  // What can't be read is nobody's.
  std::ofstream(bench.record()) << "half";
  CHECK(bench.run("createRuntime", bench.state(getpid())).empty());
  CHECK(bench.sources(getpid()));
  std::ofstream(bench.record()) << "half";
  CHECK(bench.run("poststop", bench.state(0)).empty());
  CHECK_FALSE(fs::exists(bench.path / "run/web"));
}

TEST_CASE("poststart of a container that has ended keeps the record of its creation") {
  Bench bench;
  CHECK(bench.run("createRuntime", bench.state(getpid())).empty());
  CHECK(bench.run("poststart", bench.state(999999999)).empty());
  CHECK(fs::exists(bench.record()));
}

TEST_CASE("a hook that is called wrongly says so") {
  Bench bench;
  CHECK(bench.run("createruntime", bench.state(1)) ==
        "cannot run hook \"createruntime\": there is no such phase");
  CHECK(bench.run("startContainer", "") ==
        "cannot run hook \"startContainer\": there is no such phase");
  CHECK(bench.run("createRuntime", "") ==
        "cannot read the container's state on stdin: stdin is empty");
  CHECK(bench.run("createRuntime", "hello").find("state on stdin: not valid JSON") !=
        std::string::npos);
  CHECK(bench.run("createRuntime", bench.state(0)) ==
        "cannot use the container's state on stdin: it has no pid");
  CHECK(bench.run("createRuntime", bench.state(getpid(), "none")).find("none/config.json") !=
        std::string::npos);
  CHECK(bench.run("poststop", R"({"id":"..","bundle":"/"})").find("container id") !=
        std::string::npos);
  CHECK(bench.run("createRuntime", R"({"id":"a","pid":1,"bundle":"b"})") ==
        "cannot use the container's state on stdin: bundle \"b\" is not an absolute path");
  CHECK_FALSE(fs::exists(bench.path / "run"));
  NullLog log;
  CHECK_THROWS_AS(hook::run("poststop", -1, log, {}, (bench.path / "run").string()), Error);
}

TEST_CASE("a record is never written through a symbolic link") {
  Bench bench;
  fs::create_directory(bench.path / "run");
  fs::create_directory(bench.path / "elsewhere");
  fs::create_symlink(bench.path / "elsewhere", bench.path / "run/web");
  CHECK_FALSE(bench.run("createRuntime", bench.state(getpid())).empty());
  CHECK(fs::is_empty(bench.path / "elsewhere"));
}
