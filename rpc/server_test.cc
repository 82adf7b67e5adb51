#include "rpc/server.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "kernel/fs.h"
#include "rpc.pb.h"
#include "stats.pb.h"

using namespace stasis;
using namespace stasis::rpc;

namespace {

// An image directory, the engine's stand-in and a caller's end of the socket.
class Caller {
 public:
  Caller() {
    char name[] = "/tmp/stasis-rpc-XXXXXX";
    REQUIRE(mkdtemp(name));
    dir_ = name;
    dir_fd_ = UniqueFd(open(name, O_RDONLY | O_DIRECTORY));
    calls.dump = [this](const engine::DumpPlan& plan, int, engine::Observer& observer, Log& log) {
      dumped = plan;
      log.info("dumping {}", plan.root);
      observer.pre_dump();
      observer.post_dump();
      if (fail) throw Error("freeze", "the container").with_errno(EBUSY).hint("thaw it");
      engine::DumpResult result;
      result.pages_written = 42;
      return result;
    };
    calls.restore = [this](const engine::RestorePlan& plan, int, engine::Observer& observer, Log&) {
      restored = plan;
      observer.setup_namespaces(77);
      UniqueFd null(open("/dev/null", O_RDWR));
      observer.orphan_pts_master(null.get());
      observer.post_restore(77);
      engine::RestoreResult result;
      result.root = 77;
      observer.restored(result);
      return result;
    };
    calls.default_config = dir_ + "/default.conf";
    calls.missing = [this] { return missing; };
    calls.obstacles = [this](const engine::DumpPlan&) { return findings; };
  }
  ~Caller() {
    socket_.reset();
    if (server_.joinable()) server_.join();
    std::system(("rm -rf " + dir_).c_str());
  }

  void start() {
    int ends[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
    socket_ = UniqueFd(ends[0]);
    server_ = std::thread([this, fd = ends[1]] { exit_code_ = serve(fd, calls); });
  }
  int finish() {
    socket_.reset();
    server_.join();
    return exit_code_;
  }

  void send(const Request& request) {
    std::string packet = request.SerializePartialAsString();
    REQUIRE(::send(socket_.get(), packet.data(), packet.size(), 0) ==
            static_cast<ssize_t>(packet.size()));
  }
  Response receive() {
    char buffer[8192];
    alignas(cmsghdr) char control[256];
    iovec part{buffer, sizeof buffer};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    ssize_t size = recvmsg(socket_.get(), &message, 0);
    REQUIRE(size > 0);
    passed = CMSG_FIRSTHDR(&message) != nullptr;
    if (passed) {
      int fd = -1;
      memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
      ::close(fd);
    }
    Response response;
    REQUIRE(response.ParseFromArray(buffer, static_cast<int>(size)));
    return response;
  }

  // Sends the request, acknowledges all notifications, returns the answer.
  Response ask(const Request& request) {
    send(request);
    for (;;) {
      Response response = receive();
      if (response.type() != NOTIFY) return response;
      std::string told = response.notify().script();
      if (response.notify().has_pid()) told += " " + std::to_string(response.notify().pid());
      if (passed) told += " +fd";
      notified.push_back(told);
      Request answer;
      answer.set_type(NOTIFY);
      answer.set_notify_success(agree);
      send(answer);
    }
  }

  Request request(RequestType type) const {
    Request result;
    result.set_type(type);
    Options& opts = *result.mutable_opts();
    opts.set_images_dir_fd(dir_fd_.get());
    opts.set_log_file("test.log");
    opts.set_log_level(4);
    opts.set_notify_scripts(true);
    opts.set_pid(getpid());
    return result;
  }

  std::string read(const std::string& name) const { return kernel::read_file(dir_ + "/" + name); }
  const std::string& dir() const { return dir_; }

  EngineCalls calls;
  engine::DumpPlan dumped;
  engine::RestorePlan restored;
  std::vector<engine::Finding> findings;
  std::vector<std::string> notified;
  std::string missing;
  bool fail = false, agree = true, passed = false;

 private:
  std::string dir_;
  UniqueFd dir_fd_, socket_;
  std::thread server_;
  int exit_code_ = -1;
};

}  // namespace

TEST_CASE("VERSION is answered as runc and go-criu want it", "[rpc]") {
  Caller caller;
  caller.start();
  Request request;
  request.set_type(VERSION);
  Response response = caller.ask(request);
  CHECK(response.type() == VERSION);
  CHECK(response.success());
  CHECK(response.version().major_number() == 4);
  CHECK(response.version().minor_number() == 2);
  CHECK_FALSE(response.version().has_gitid());
  CHECK(caller.finish() == 0);
}

TEST_CASE("a caller that leaves at once is no error", "[rpc]") {
  Caller caller;
  caller.start();
  CHECK(caller.finish() == 0);
}

TEST_CASE("keep_open keeps the socket for the next request", "[rpc]") {
  Caller caller;
  caller.start();
  Request request = caller.request(FEATURE_CHECK);
  request.mutable_features()->set_mem_track(true);
  request.set_keep_open(true);
  Response response = caller.ask(request);
  CHECK(response.type() == FEATURE_CHECK);
  CHECK(response.success());
  CHECK((response.features().has_mem_track() && !response.features().mem_track()));
  request.set_type(VERSION);
  CHECK(caller.ask(request).success());
  CHECK(caller.finish() == 0);
}

TEST_CASE("CHECK says what is missing", "[rpc]") {
  Caller caller;
  caller.start();
  Request request;
  request.set_type(CHECK);
  request.set_keep_open(true);
  CHECK(caller.ask(request).success());
  caller.missing = "pidfd_getfd";
  request.set_keep_open(false);
  Response response = caller.ask(request);
  CHECK_FALSE(response.success());
  CHECK_THAT(response.cr_errmsg(), Catch::Contains("pidfd_getfd is missing"));
  CHECK(caller.finish() == 1);
}

TEST_CASE("what is not supported or not understood gets an answer", "[rpc]") {
  for (RequestType type : {PRE_DUMP, SINGLE_PRE_DUMP, PAGE_SERVER, CPUINFO_CHECK, NOTIFY}) {
    Caller caller;
    caller.start();
    Response response = caller.ask(caller.request(type));
    if (type != NOTIFY) CHECK(response.type() == type);
    CHECK_FALSE(response.success());
    CHECK(response.cr_errno() != 0);
    CHECK_FALSE(response.cr_errmsg().empty());
    CHECK(caller.finish() == 1);
  }
  Caller caller;
  caller.start();
  Request request;  // without a type, as one of an unknown type looks to us
  request.set_pid(1);
  caller.send(request);
  Response response = caller.receive();
  CHECK(response.type() == EMPTY);
  CHECK_FALSE(response.success());
  CHECK(caller.finish() == 1);
}

TEST_CASE("a dump: notifications, log, statistics", "[rpc]") {
  Caller caller;
  caller.start();
  Request request = caller.request(DUMP);
  request.mutable_opts()->set_leave_running(true);
  Response response = caller.ask(request);
  CHECK(response.type() == DUMP);
  CHECK(response.success());
  CHECK(caller.finish() == 0);
  CHECK(caller.notified == std::vector<std::string>{"pre-dump", "post-dump"});
  CHECK(caller.dumped.root == getpid());
  CHECK(caller.dumped.leave_running);
  CHECK_THAT(caller.read("test.log"), Catch::Contains("dumping " + std::to_string(getpid())));

  std::string stats = caller.read("stats-dump");
  uint32_t words[3];
  REQUIRE(stats.size() > sizeof words);
  memcpy(words, stats.data(), sizeof words);
  CHECK(words[0] == 0x55105940);
  CHECK(words[1] == 0x57093306);
  REQUIRE(words[2] == stats.size() - sizeof words);
  image::StatsEntry entry;
  REQUIRE(entry.ParseFromString(stats.substr(sizeof words)));
  CHECK(entry.dump().pages_written() == 42);
}

TEST_CASE("without notify_scripts nothing is told", "[rpc]") {
  Caller caller;
  caller.start();
  Request request = caller.request(DUMP);
  request.mutable_opts()->set_notify_scripts(false);
  CHECK(caller.ask(request).success());
  CHECK(caller.notified.empty());
  CHECK(caller.finish() == 0);
}

TEST_CASE("a failing dump says why, in the answer and in the log", "[rpc]") {
  Caller caller;
  caller.fail = true;
  caller.start();
  Response response = caller.ask(caller.request(DUMP));
  CHECK(response.type() == DUMP);
  CHECK_FALSE(response.success());
  CHECK(response.cr_errno() == EBUSY);
  CHECK_THAT(response.cr_errmsg(),
             Catch::Contains("freeze the container") && Catch::Contains("thaw it"));
  CHECK_THAT(caller.read("test.log"), Catch::Contains("Error (stasis/dump): cannot freeze"));
  CHECK(caller.finish() == 1);
}

TEST_CASE("obstacles refuse a dump before anything is told or touched", "[rpc]") {
  Caller caller;
  caller.findings = {{"process 5 (x)", "has an io_uring open", "close it"},
                     {"process 6 (y)", "is traced", "detach the debugger"}};
  caller.start();
  Response response = caller.ask(caller.request(DUMP));
  CHECK_FALSE(response.success());
  CHECK(response.cr_errno() == EOPNOTSUPP);
  CHECK_THAT(response.cr_errmsg(),
             Catch::Contains("process 5 (x) has an io_uring open (and 1 more)"));
  CHECK(caller.notified.empty());
  CHECK(caller.dumped.root == 0);
  CHECK_THAT(caller.read("test.log"), Catch::Contains("process 6 (y) is traced"));
  CHECK(caller.finish() == 1);
}

TEST_CASE("a caller that objects to a notification stops the dump", "[rpc]") {
  Caller caller;
  caller.agree = false;
  caller.start();
  Response response = caller.ask(caller.request(DUMP));
  CHECK_FALSE(response.success());
  CHECK(caller.notified == std::vector<std::string>{"pre-dump"});
  CHECK(caller.finish() == 1);
}

TEST_CASE("a restore: pids in notifications, the terminal's descriptor, the root's pid", "[rpc]") {
  Caller caller;
  caller.start();
  Request request = caller.request(RESTORE);
  request.mutable_opts()->set_rst_sibling(true);
  Response response = caller.ask(request);
  CHECK(response.type() == RESTORE);
  CHECK(response.success());
  CHECK(response.restore().pid() == 77);
  CHECK(caller.restored.sibling);
  CHECK(caller.notified == std::vector<std::string>{"setup-namespaces 77", "orphan-pts-master +fd",
                                                    "post-restore 77"});
  CHECK_FALSE(caller.read("stats-restore").empty());
  CHECK(caller.finish() == 0);
}

TEST_CASE("the configuration file has the last word", "[rpc]") {
  Caller caller;
  std::string work = caller.dir() + "/work", conf = caller.dir() + "/runc.conf";
  REQUIRE(mkdir(work.c_str(), 0700) == 0);
  UniqueFd file(open(conf.c_str(), O_WRONLY | O_CREAT, 0600));
  kernel::write_all(file.get(), "leave-running\nwork-dir " + work + "\nlog-file other.log\n", conf);
  caller.start();
  Request request = caller.request(DUMP);
  request.mutable_opts()->set_leave_running(false);
  request.mutable_opts()->set_config_file(conf);
  CHECK(caller.ask(request).success());
  CHECK(caller.dumped.leave_running);
  CHECK_FALSE(caller.read("work/other.log").empty());
  CHECK_FALSE(caller.read("work/stats-dump").empty());
  CHECK(caller.finish() == 0);
}

TEST_CASE("the default configuration has the first word only", "[rpc]") {
  Caller caller;
  UniqueFd file(open(caller.calls.default_config.c_str(), O_WRONLY | O_CREAT, 0600));
  kernel::write_all(file.get(), "log-file=other.log\ntcp-established\nleave-running\n", "");
  caller.start();
  Request request = caller.request(DUMP);
  request.mutable_opts()->set_leave_running(false);
  CHECK(caller.ask(request).success());
  CHECK(caller.dumped.tcp_established);
  CHECK_FALSE(caller.dumped.leave_running);
  CHECK_FALSE(caller.read("test.log").empty());
  CHECK_THROWS_AS(caller.read("other.log"), Error);
  CHECK(caller.finish() == 0);
}

TEST_CASE("a bad or foreign configuration file is refused, one that is missing is not", "[rpc]") {
  Caller caller;
  std::string conf = caller.dir() + "/runc.conf";
  UniqueFd file(open(conf.c_str(), O_WRONLY | O_CREAT, 0600));
  bool ok = false;
  SECTION("missing") {
    conf += "-not";
    ok = true;
  }
  SECTION("unknown option") { kernel::write_all(file.get(), "fly\n", conf); }
  SECTION("writable by others") { REQUIRE(fchmod(file.get(), 0666) == 0); }
  caller.start();
  Request request = caller.request(DUMP);
  request.mutable_opts()->set_config_file(conf);
  Response response = caller.ask(request);
  CHECK(response.success() == ok);
  if (!ok) CHECK(response.cr_errno() == EBADRQC);
  if (!ok) CHECK_THAT(caller.read("test.log"), Catch::Contains("Error (stasis/dump): "));
  caller.finish();
}
