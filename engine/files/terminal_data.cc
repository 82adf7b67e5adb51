#include "engine/files/terminal_data.h"

#include <poll.h>
#include <sys/syscall.h>

#include <array>
#include <cstring>
#include <string_view>

#include "base/scope_exit.h"
#include "kernel/fs.h"
#include "kernel/tty.h"

namespace stasis::engine::files {

namespace {

constexpr size_t most = 64 << 10;  // the kernel holds less

// Also has the kernel pass on what was written at the other end.
bool has_data(int fd) {
  pollfd look{fd, POLLIN, 0};
  timespec now{};
  long ready = kernel::call(SYS_ppoll, &look, 1, &now, nullptr, 0);
  return ready > 0 && (look.revents & POLLIN) != 0;
}

std::string read_once(int fd) {
  std::array<char, 8192> buffer;
  long n = kernel::must(kernel::call(SYS_read, fd, buffer.data(), buffer.size()),
                        "read what waits in", "a terminal");
  return {buffer.data(), static_cast<size_t>(n)};
}

std::string read_all(int fd) {
  std::string text;
  while (text.size() < most && has_data(fd)) {
    std::string part = read_once(fd);
    if (part.empty()) break;
    text += part;
  }
  return text;
}

bool ends_line(char c, const termios& settings) {
  auto character = static_cast<cc_t>(c);
  return c == '\n' || (character != 0 &&
                       (character == settings.c_cc[VEOL] || character == settings.c_cc[VEOL2]));
}

// A line that ^D has ended has no other mark than that.
std::string read_lines(int fd, const termios& settings) {
  std::string text;
  while (text.size() < most && has_data(fd)) {
    std::string line = read_once(fd);
    text += line;
    if (line.empty() || !ends_line(line.back(), settings))
      text += static_cast<char>(settings.c_cc[VEOF]);
  }
  return text;
}

// The same lines, but no character does anything: no echo, no signal, no change.
termios neutral(const termios& settings) {
  termios result = settings;
  result.c_iflag = 0;
  result.c_oflag = 0;
  result.c_lflag &= static_cast<tcflag_t>(ICANON);
  for (int killer : {VERASE, VKILL}) result.c_cc[killer] = 0;
  return result;
}

termios without_lines(const termios& settings) {
  termios result = settings;
  result.c_lflag &= ~static_cast<tcflag_t>(ICANON);
  result.c_cc[VMIN] = 1;
  result.c_cc[VTIME] = 0;
  return result;
}

// Takes it out; `data` holds what was taken also when this throws.
void take_data(int master, int slave, TerminalData& data) {
  const termios settings = kernel::tty_settings(slave);
  if (master >= 0) data.printed = read_all(master);
  if ((settings.c_lflag & ICANON) != 0) data.typed = read_lines(slave, settings);
  const termios all = without_lines(settings);
  if (memcmp(&all, &settings, sizeof all) == 0) {
    data.typed += read_all(slave);
    return;
  }
  ScopeExit restore([&] { kernel::call(SYS_ioctl, slave, TCSETS, &settings); });
  kernel::set_tty_settings(slave, all);
  data.typed += read_all(slave);
}

}  // namespace

TerminalData copy_data(int master, int slave) {
  TerminalData data;
  const bool packets = master >= 0 && kernel::has_packet_mode(master);
  ScopeExit restore([&] {
    int on = 1;
    if (packets) kernel::call(SYS_ioctl, master, TIOCPKT, &on);
  });
  if (packets) kernel::set_packet_mode(master, false);
  try {
    take_data(master, slave, data);
  } catch (const Error&) {
    put_data(slave, data);
    throw;
  }
  put_data(slave, data);
  return data;
}

void put_data(int slave, const TerminalData& data) {
  if (data.empty()) return;
  const termios settings = kernel::tty_settings(slave);
  kernel::set_tty_settings(slave, neutral(settings));
  ScopeExit restore([&] { kernel::call(SYS_ioctl, slave, TCSETS, &settings); });
  // As typed, but done when the call returns.
  for (char c : data.typed)
    kernel::must(kernel::call(SYS_ioctl, slave, TIOCSTI, &c), "put back what waits in",
                 "a terminal");
  std::string_view rest = data.printed;
  while (!rest.empty()) {
    pollfd look{slave, POLLOUT, 0};
    timespec patience{.tv_sec = 1, .tv_nsec = 0};
    long ready = kernel::call(SYS_ppoll, &look, 1, &patience, nullptr, 0);
    if (ready <= 0) throw Error("put back what waits in", "a terminal").because("it takes no more");
    std::string_view part = rest.substr(0, 512);
    rest.remove_prefix(
        static_cast<size_t>(kernel::must(kernel::call(SYS_write, slave, part.data(), part.size()),
                                         "put back what waits in", "a terminal")));
  }
}

}  // namespace stasis::engine::files
