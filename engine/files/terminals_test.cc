// What waits in terminals, and which of them can be written down.
#include <stdlib.h>

#include "engine/files/file_kind.h"
#include "engine/files/terminal_data.h"
#include "engine/files/test_support.h"
#include "kernel/tty.h"

namespace stasis::engine::files {

namespace {

struct Pty {
  UniqueFd master, slave;
  explicit Pty(tcflag_t local) : master(posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK)) {
    kernel::set_pty_locked(master.get(), false);
    slave = kernel::open_pty_peer(master.get(), O_RDWR | O_NONBLOCK);
    termios settings = kernel::tty_settings(slave.get());
    settings.c_iflag = local & ICANON ? ICRNL : 0;
    settings.c_lflag = local;
    kernel::set_tty_settings(slave.get(), settings);
  }
  void type(const std::string& text) const { kernel::write_all(master.get(), text, "a terminal"); }
};

}  // namespace

TEST_CASE("what waits in a terminal is copied and stays: lines, an end, a beginning, the echo") {
  if (!may_examine()) return;
  Pty pty(ICANON | ECHO | ISIG | IEXTEN);
  pty.type("first\rsecond\nab\x04th\x16\x03i");  // ^V quotes ^C
  for (int n = 0; n < 2; ++n) {
    TerminalData data = copy_data(pty.master.get(), pty.slave.get(), true);
    CHECK(data.typed == "first\nsecond\nab\x04th\x03i");
    CHECK(data.printed == "first\r\nsecond\r\nabth\x03i");
  }
  CHECK(read_some(pty.slave.get()) == "first\n");
  CHECK(read_some(pty.slave.get()) == "second\n");
  CHECK(read_some(pty.slave.get()) == "ab");
  CHECK(read_some(pty.slave.get()) == "error");
  CHECK(read_some(pty.master.get()) == "first\r\nsecond\r\nabth\x03i");
  pty.type("rd\n");
  CHECK(read_some(pty.slave.get()) == "th\x03ird\n");
}

TEST_CASE("a terminal in which nothing waits for a reader is left alone") {
  if (!may_examine()) return;
  Pty pty(ICANON);
  pty.type("beginning");
  CHECK(copy_data(pty.master.get(), pty.slave.get(), false).empty());
  pty.type("\n");
  CHECK(read_some(pty.slave.get()) == "beginning\n");
}

TEST_CASE("raw bytes and packets") {
  if (!may_examine()) return;
  Pty pty(0);
  kernel::set_packet_mode(pty.master.get(), true);
  pty.type("\x03\x04\x13");
  kernel::write_all(pty.slave.get(), "out\n", "a terminal");
  TerminalData data = copy_data(pty.master.get(), pty.slave.get(), true);
  CHECK(data.typed == "\x03\x04\x13");
  CHECK(data.printed == "out\r\n");
  CHECK(kernel::has_packet_mode(pty.master.get()));
  CHECK(read_some(pty.slave.get()) == "\x03\x04\x13");
  CHECK(read_some(pty.master.get()) == std::string("\0out\r\n", 6));
}

TEST_CASE("a terminal from outside is refused, its master beside it or --shell-job allows it") {
  if (!may_examine()) return;
  UniqueFd low(posix_openpt(O_RDWR | O_NOCTTY));
  UniqueFd outside(fcntl(low.get(), F_DUPFD_CLOEXEC, 1500));
  kernel::set_pty_locked(outside.get(), false);
  Child child([&] {
    int master = posix_openpt(O_RDWR | O_NOCTTY);  // 0
    unlockpt(master);
    kernel::open_pty_peer(master, O_RDWR).release();         // 1
    kernel::open_pty_peer(outside.get(), O_RDWR).release();  // 2
    close(outside.release());
  });
  DumpPlan plan;
  plan.root = child.pid();
  plan.mounts = mountmap::MountTable::read(child.pid());
  auto look = [&](int number) {
    UniqueFd proc = kernel::open(fmt::format("/proc/{}", child.pid()), O_PATH);
    return objection_to(probe_descriptor(proc.get(), child.pid(), number), Surroundings(plan));
  };
  CHECK_FALSE(look(0));
  CHECK_FALSE(look(1));
  auto objection = look(2);
  REQUIRE(objection);
  CHECK(objection->what.starts_with("holds the terminal /dev/pts/"));
  CHECK(objection->remedy.find("--shell-job") != std::string::npos);
  plan.shell_job = true;
  CHECK_FALSE(look(2));
  plan.shell_job = false;
  plan.orphan_pts_master = true;
  CHECK_FALSE(look(2));
}

}  // namespace stasis::engine::files
