#include "hook/container_log.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "base/scope_exit.h"

namespace stasis::hook {

namespace {

LineMatch is(const std::string& wanted) {
  return [wanted](std::string_view line) { return line == wanted; };
}

// A process with that as its standard output.
class Writer {
 public:
  explicit Writer(const std::string& output) {
    pid_ = fork();
    if (pid_ != 0) return;
    dup2(open(output.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600), 1);
    dup2(1, 2);
    for (;;) pause();
  }
  ~Writer() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_;
};

}  // namespace

TEST_CASE("Lines are whole ones, however they come") {
  LogLines lines;
  CHECK_FALSE(lines.add("rea", is("ready")));
  CHECK_FALSE(lines.add("dy", is("ready")));
  CHECK(lines.add("\nmore", is("ready")));
  CHECK_FALSE(lines.add("\n", is("ready")));
}

TEST_CASE("What a monitor puts before a line isn't the line's") {
  LogLines lines;
  std::string date = "2026-11-21T20:00:00.000000000+00:00 ";
  CHECK(lines.add(date + "stdout F ready\n", is("ready")));
  CHECK(lines.add(date + "stderr P re\n" + date + "stderr F ady\n", is("ready")));
  CHECK(lines.add(date + "other F ready\n", is(date + "other F ready")));
  CHECK(lines.add(" a b c\n", is(" a b c")));
}

TEST_CASE("A file is followed from its end, and from its begin once it was emptied") {
  char name[] = "/tmp/stasis-log-XXXXXX";
  close(mkstemp(name));
  ScopeExit remove([&] { std::filesystem::remove(name); });
  std::ofstream(name) << "ready\n";
  Writer writer(name);
  while (std::filesystem::read_symlink("/proc/" + std::to_string(writer.pid()) + "/fd/2") != name)
    usleep(1000);
  ContainerLog log(writer.pid());
  log.begin();
  CHECK_FALSE(log.said(is("ready")));
  std::ofstream(name, std::ios::app) << "more\nready\n";
  CHECK(log.said(is("ready")));
  CHECK_FALSE(log.said(is("ready")));
  std::ofstream(name, std::ios::trunc) << "ready\n";
  CHECK(log.said(is("ready")));
}

TEST_CASE("What can't be read twice isn't followed") {
  Writer writer("/dev/null");
  while (std::filesystem::read_symlink("/proc/" + std::to_string(writer.pid()) + "/fd/2") !=
         "/dev/null")
    usleep(1000);
  CHECK_THROWS_WITH(ContainerLog(writer.pid()), Catch::Contains("/dev/null"));
}

}  // namespace stasis::hook
