// Pseudoterminals: settings, sizes, modes, numbers with a gap, waiting data, one
// that is hung up, and a session with its terminal, foreground group and /dev/tty.
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <termios.h>

#include <atomic>
#include <optional>

#include "program.h"

using namespace program;

namespace {

struct Pty {
  int master = -1, slave = -1, index = -1;
  Pty() {
    master = open("/dev/ptmx", O_RDWR | O_NOCTTY);
    need(master >= 0, "open /dev/ptmx");
    need(ioctl(master, TIOCGPTN, &index) == 0, "TIOCGPTN");
    need(unlockpt(master) == 0, "unlockpt");
    slave = open(name().c_str(), O_RDWR | O_NOCTTY);
    need(slave >= 0, "open a slave");
  }
  std::string name() const { return "/dev/pts/" + std::to_string(index); }
};

void put(int fd, const std::string& text) {
  need(write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()), "write");
}

std::string take(int fd, size_t n = 4096) {
  std::string text(n, '\0');
  ssize_t got = read(fd, text.data(), n);
  text.resize(got > 0 ? got : 0);
  return text;
}

int waiting(int fd) {
  int bytes = -1;
  ioctl(fd, FIONREAD, &bytes);
  return bytes;
}

void change(int fd, tcflag_t input, tcflag_t output, tcflag_t local, cc_t interrupt) {
  termios settings{};
  need(tcgetattr(fd, &settings) == 0, "tcgetattr");
  settings.c_iflag = input;
  settings.c_oflag = output;
  settings.c_lflag = local;
  settings.c_cc[VINTR] = interrupt;
  need(tcsetattr(fd, TCSANOW, &settings) == 0, "tcsetattr");
}

// Raw, with data that waits on both sides; a size.
struct Raw : Pty {
  bool idle;
  explicit Raw(bool without_data) : idle(without_data) {
    change(slave, 0, 0, 0, 7);
    winsize size{41, 123, 5, 6};
    need(ioctl(master, TIOCSWINSZ, &size) == 0, "TIOCSWINSZ");
    fchmod(slave, 0600);
    fill();
  }
  void fill() const {
    if (idle) return;
    put(master, "to\x03\rslave\x04");
    put(slave, "to\nmaster");
  }
  void verify(Verdict& verdict) const {
    termios settings{};
    verdict.expect(tcgetattr(slave, &settings) == 0 && settings.c_lflag == 0 &&
                       settings.c_oflag == 0 && settings.c_cc[VINTR] == 7,
                   "settings of the raw terminal");
    winsize size{};
    ioctl(slave, TIOCGWINSZ, &size);
    verdict.expect(size.ws_row == 41 && size.ws_col == 123 && size.ws_ypixel == 6, "size %d x %d",
                   size.ws_row, size.ws_col);
    struct stat stat{};
    fstat(slave, &stat);
    verdict.expect((stat.st_mode & 0777) == 0600, "mode %o", stat.st_mode & 0777);
    if (idle) return;
    if (!verdict.expect(waiting(slave) == 10 && waiting(master) == 9, "%d and %d bytes wait",
                        waiting(slave), waiting(master)))
      return;
    verdict.expect(take(slave) == "to\x03\rslave\x04", "what waits for the slave");
    verdict.expect(take(master) == "to\nmaster", "what waits for the master");
    fill();
  }
};

// Line by line, with echo: two lines wait, and the beginning of a third.
struct Lines : Pty {
  Lines() {
    change(slave, ICRNL | IXON, OPOST | ONLCR, ICANON | ECHO | ISIG | IEXTEN, 3);
    fill();
  }
  void fill() {
    put(master, "first\rsecond line\nthi");
    for (int echoed = 0; echoed < 23; echoed = waiting(master)) sleep_us(1000);
  }
  void verify(Verdict& verdict) {
    verdict.expect(take(slave) == "first\n", "the first line");
    verdict.expect(take(slave) == "second line\n", "the second line");
    std::string echo = take(master);
    verdict.expect(echo == "first\r\nsecond line\r\nthi", "the echo is %s", echo.c_str());
    put(master, "rd\n");
    verdict.expect(take(slave) == "third\n", "the line that had begun");
    sleep_us(1000);
    take(master);
    fill();
  }
};

struct Modes : Pty {
  Modes() {
    int on = 1;
    need(ioctl(master, TIOCPKT, &on) == 0, "TIOCPKT");
    need(ioctl(slave, TIOCEXCL) == 0, "TIOCEXCL");
    need(ioctl(master, TIOCSPTLCK, &on) == 0, "TIOCSPTLCK");
  }
  void verify(Verdict& verdict) const {
    int packet = 0, exclusive = 0, locked = 0;
    ioctl(master, TIOCGPKT, &packet);
    ioctl(slave, TIOCGEXCL, &exclusive);
    ioctl(master, TIOCGPTLCK, &locked);
    verdict.expect(packet == 1 && exclusive == 1 && locked == 1, "packet %d, exclusive %d, lock %d",
                   packet, exclusive, locked);
  }
};

// A session of two groups at a terminal: who gets what is typed, and signals.
struct Shared {
  std::atomic<int> session, foreground, interrupts, leader_interrupts;
};
Shared* shared;

void count(int) { ++shared->interrupts; }
void count_in_leader(int) { ++shared->leader_interrupts; }

[[noreturn]] void lead_session(const Pty& pty) {
  close(pty.master);
  setsid();
  need(ioctl(pty.slave, TIOCSCTTY, 0) == 0, "TIOCSCTTY");
  int terminal = open("/dev/tty", O_RDWR);
  need(terminal >= 0, "open /dev/tty");
  close(pty.slave);
  signal(SIGINT, count_in_leader);
  signal(SIGTTOU, SIG_IGN);
  pid_t job = fork();
  if (job == 0) {
    setpgid(0, 0);
    struct sigaction action{};
    action.sa_handler = count;
    action.sa_flags = SA_RESTART;
    sigaction(SIGINT, &action, nullptr);
    need(tcsetpgrp(terminal, getpid()) == 0, "tcsetpgrp");
    shared->foreground = getpid();
    for (std::string line; !(line = take(terminal)).empty();) put(terminal, "<" + line + ">");
    _exit(0);
  }
  close(terminal);
  shared->session = getpid();
  for (;;) pause();
}

struct Session : Pty {
  Session() {
    change(slave, ICRNL, 0, ICANON | ISIG, 3);
    if (fork() == 0) lead_session(*this);
    close(slave);
    while (!shared->foreground || !shared->session) sleep_us(1000);
  }
  void verify(Verdict& verdict) const {
    pid_t session = 0, foreground = 0;
    ioctl(master, TIOCGSID, &session);
    ioctl(master, TIOCGPGRP, &foreground);
    verdict.expect(session == shared->session, "it is the terminal of session %d, not %d", session,
                   shared->session.load());
    verdict.expect(foreground == shared->foreground, "group %d is in the foreground, not %d",
                   foreground, shared->foreground.load());
    int before = shared->interrupts;
    put(master, "\x03");
    for (int n = 0; n < 2000 && shared->interrupts == before; ++n) sleep_us(1000);
    verdict.expect(shared->interrupts == before + 1, "the foreground group got %d SIGINTs",
                   shared->interrupts - before);
    verdict.expect(shared->leader_interrupts == 0, "the background got SIGINT");
    put(master, "hello\n");
    std::string answer;
    while (answer.find('>') == answer.npos) {
      std::string part = take(master);
      if (part.empty()) break;
      answer += part;
    }
    verdict.expect(answer == "<hello\n>", "the job says %s", answer.c_str());
  }
};

bool lacks_slaves(int master) {
  pollfd look_at{master, 0, 0};
  return poll(&look_at, 1, 0) == 1 && (look_at.revents & POLLHUP);
}

std::string link_of(int fd) {
  char name[64];
  ssize_t n = readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), name, sizeof name);
  return n > 0 ? std::string(name, n) : "";
}

}  // namespace

// "plain": without the session, which CRIU can't take along; "idle": nothing waits.
int main(int argc, char** argv) {
  const std::string how = argc > 1 ? argv[1] : "";
  const bool idle = how == "idle";
  void* memory =
      mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  shared = new (memory) Shared{};
  Raw raw(idle);
  Pty gone, hung;
  std::optional<Lines> lines;
  if (!idle) lines.emplace();
  Modes modes;
  close(gone.master);
  close(gone.slave);
  close(hung.master);
  std::optional<Session> session;
  if (how != "plain") session.emplace();
  Pty closed;
  close(closed.slave);
  int fresh = open("/dev/ptmx", O_RDWR | O_NOCTTY);
  need(fresh >= 0, "open /dev/ptmx");
  int again = open(raw.name().c_str(), O_RDWR | O_NOCTTY | O_NONBLOCK);
  need(again >= 0, "open a slave again");
  serve([&](Verdict& verdict) {
    raw.verify(verdict);
    verdict.expect(link_of(again) == raw.name(), "the second slave is %s", link_of(again).c_str());
    if (lines) lines->verify(verdict);
    modes.verify(verdict);
    if (session) session->verify(verdict);
    verdict.expect(lacks_slaves(closed.master), "a master whose slaves were closed has some");
    verdict.expect(!lacks_slaves(fresh), "a new master has had slaves");
    termios settings{};
    verdict.expect(tcgetattr(hung.slave, &settings) == -1 && errno == EIO,
                   "the terminal without its other end still works");
  });
}
