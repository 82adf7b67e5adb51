#include "kernel/tty.h"

#include <poll.h>
#include <sys/syscall.h>
#include <time.h>

namespace stasis::kernel {

bool is_hung_up(int fd) {
  termios settings{};
  return call(SYS_ioctl, fd, TCGETS, &settings) == -EIO;
}

termios tty_settings(int fd) {
  termios settings{};
  tty_ioctl(fd, TCGETS, &settings, "read the settings of");
  return settings;
}

termios locked_tty_settings(int fd) {
  termios locked{};
  tty_ioctl(fd, TIOCGLCKTRMIOS, &locked, "read the locked settings of");
  return locked;
}

void set_tty_settings(int fd, const termios& settings) {
  tty_ioctl(fd, TCSETS, &settings, "set up");
}

void lock_tty_settings(int fd, const termios& locked) {
  tty_ioctl(fd, TIOCSLCKTRMIOS, &locked, "lock the settings of");
}

int pty_index(int master) {
  int index = 0;
  tty_ioctl(master, TIOCGPTN, &index, "read the number of");
  return index;
}

unsigned tty_device(int fd) {
  unsigned device = 0;
  tty_ioctl(fd, TIOCGDEV, &device, "read the device of");
  return device;
}

int line_discipline(int fd) {
  int discipline = 0;
  tty_ioctl(fd, TIOCGETD, &discipline, "read the line discipline of");
  return discipline;
}

bool is_pty_locked(int master) {
  int locked = 0;
  tty_ioctl(master, TIOCGPTLCK, &locked, "read the lock of");
  return locked != 0;
}

void set_pty_locked(int master, bool locked) {
  int value = locked;
  tty_ioctl(master, TIOCSPTLCK, &value, "lock or unlock");
}

bool is_tty_exclusive(int fd) {
  int exclusive = 0;
  tty_ioctl(fd, TIOCGEXCL, &exclusive, "read the exclusive mode of");
  return exclusive != 0;
}

bool has_packet_mode(int master) {
  int on = 0;
  tty_ioctl(master, TIOCGPKT, &on, "read the packet mode of");
  return on != 0;
}

void set_packet_mode(int master, bool on) {
  int value = on;
  tty_ioctl(master, TIOCPKT, &value, "set the packet mode of");
}

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
