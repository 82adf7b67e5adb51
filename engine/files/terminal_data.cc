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

// Has the kernel pass on what was written at the other end.
bool has_data(int fd) {
  pollfd look{fd, POLLIN, 0};
  timespec now{};
  long ready = kernel::call(SYS_ppoll, &look, 1, &now, nullptr, 0);
  return ready > 0 && (look.revents & POLLIN) != 0;
}

int count_waiting(int fd) {
  has_data(fd);
  int bytes = 0;
  kernel::tty_ioctl(fd, FIONREAD, &bytes, "look what waits in");
  return bytes;
}

std::string read_once(int fd) {
  std::array<char, 8192> buffer;
  long n = kernel::must(kernel::call(SYS_read, fd, buffer.data(), buffer.size()),
                        "read what waits in", "a terminal");
  return {buffer.data(), static_cast<size_t>(n)};
}

std::string read_all(int fd) {
  std::string text;
  while (text.size() < most && count_waiting(fd) > 0) text += read_once(fd);
  return text;
}

// For what gives back that was taken: a second time, should the first one fail.
template <typename Step>
long insist(Step step) {
  long result = step();
  return result < 0 ? step() : result;
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

void set_back(int fd, const termios& settings) {
  insist([&] { return kernel::call(SYS_ioctl, fd, TCSETS, &settings); });
}

// Takes it out; `data` holds what was taken also when this throws.
void take_typed(int slave, bool beginnings, TerminalData& data) {
  const termios settings = kernel::tty_settings(slave);
  if ((settings.c_lflag & ICANON) == 0) {
    data.typed = read_all(slave);
    return;
  }
  if (!beginnings && !has_data(slave)) return;
  data.typed = read_lines(slave, settings);
  // A line that has begun is shown only to who doesn't want lines.
  ScopeExit restore([&] { set_back(slave, settings); });
  kernel::set_tty_settings(slave, without_lines(settings));
  data.typed += read_all(slave);
}

}  // namespace

TerminalData copy_data(int master, int slave, bool beginnings) {
  TerminalData data;
  const bool packets = master >= 0 && kernel::has_packet_mode(master);
  ScopeExit restore([&] {
    int on = 1;
    if (packets) insist([&] { return kernel::call(SYS_ioctl, master, TIOCPKT, &on); });
  });
  if (packets) kernel::set_packet_mode(master, false);
  try {
    take_typed(slave, beginnings, data);  // first: its echo may be under way
    if (master >= 0) data.printed = read_all(master);
  } catch (const Error&) {
    put_data(slave, data);
    throw;
  }
  put_data(slave, data);
  return data;
}

void put_data(int slave, const TerminalData& data) {
  if (data.empty()) return;
  termios settings{};
  kernel::must(insist([&] { return kernel::call(SYS_ioctl, slave, TCGETS, &settings); }),
               "read the settings of", "a terminal");
  const termios quiet = neutral(settings);
  kernel::must(insist([&] { return kernel::call(SYS_ioctl, slave, TCSETS, &quiet); }), "set up",
               "a terminal");
  ScopeExit restore([&] { set_back(slave, settings); });
  // As typed, but done when the call returns.
  for (char c : data.typed)
    kernel::must(insist([&] { return kernel::call(SYS_ioctl, slave, TIOCSTI, &c); }),
                 "put back what waits in", "a terminal");
  std::string_view rest = data.printed;
  while (!rest.empty()) {
    pollfd look{slave, POLLOUT, 0};
    timespec patience{.tv_sec = 1, .tv_nsec = 0};
    auto room = [&] { return kernel::call(SYS_ppoll, &look, 1, &patience, nullptr, 0); };
    if (insist(room) <= 0)
      throw Error("put back what waits in", "a terminal").because("it takes no more");
    std::string_view part = rest.substr(0, 512);
    auto write = [&] { return kernel::call(SYS_write, slave, part.data(), part.size()); };
    rest.remove_prefix(
        static_cast<size_t>(kernel::must(insist(write), "put back what waits in", "a terminal")));
  }
}

}  // namespace stasis::engine::files
