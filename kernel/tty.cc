#include "kernel/tty.h"

#include <poll.h>
#include <sys/syscall.h>
#include <time.h>

namespace stasis::kernel {

namespace {

template <typename T>
T read(int fd, unsigned long request, std::string_view what) {
  T value{};
  tty_ioctl(fd, request, &value, what);
  return value;
}

void set(int fd, unsigned long request, int flag, std::string_view what) {
  tty_ioctl(fd, request, &flag, what);
}

}  // namespace

bool is_hung_up(int fd) {
  termios settings{};
  return call(SYS_ioctl, fd, TCGETS, &settings) == -EIO;
}

termios tty_settings(int fd) { return read<termios>(fd, TCGETS, "read the settings of"); }

termios locked_tty_settings(int fd) {
  return read<termios>(fd, TIOCGLCKTRMIOS, "read the locked settings of");
}

void set_tty_settings(int fd, const termios& settings) {
  tty_ioctl(fd, TCSETS, &settings, "set up");
}

void lock_tty_settings(int fd, const termios& locked) {
  tty_ioctl(fd, TIOCSLCKTRMIOS, &locked, "lock the settings of");
}

int pty_index(int master) { return read<int>(master, TIOCGPTN, "read the number of"); }

unsigned tty_device(int fd) { return read<unsigned>(fd, TIOCGDEV, "read the device of"); }

int line_discipline(int fd) { return read<int>(fd, TIOCGETD, "read the line discipline of"); }

bool is_pty_locked(int master) { return read<int>(master, TIOCGPTLCK, "read the lock of") != 0; }

void set_pty_locked(int master, bool locked) { set(master, TIOCSPTLCK, locked, "lock or unlock"); }

bool is_tty_exclusive(int fd) {
  return read<int>(fd, TIOCGEXCL, "read the exclusive mode of") != 0;
}

bool has_packet_mode(int master) {
  return read<int>(master, TIOCGPKT, "read the packet mode of") != 0;
}

void set_packet_mode(int master, bool on) { set(master, TIOCPKT, on, "set the packet mode of"); }

pid_t session_of_pty(int master) {
  pid_t session = 0;
  long result = call(SYS_ioctl, master, TIOCGSID, &session);
  if (result == -ENOTTY) return 0;
  must(result, "read the session of", "a terminal");
  return session;
}

bool had_pty_slave(int master) {
  pollfd look{master, 0, 0};
  timespec now{};
  return call(SYS_ppoll, &look, 1, &now, nullptr, 0) > 0 && (look.revents & POLLHUP) != 0;
}

UniqueFd open_pty_peer(int master, int flags) {
  // O_CLOEXEC would stay among the flags of the open file, for all to see.
  long opened = call(SYS_ioctl, master, TIOCGPTPEER, flags | O_NOCTTY);
  UniqueFd fd(static_cast<int>(must(opened, "open the other end of", "a terminal")));
  must(call(SYS_fcntl, fd.get(), F_SETFD, FD_CLOEXEC), "flag", "a terminal");
  return fd;
}

}  // namespace stasis::kernel
