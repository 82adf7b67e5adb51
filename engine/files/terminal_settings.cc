#include "engine/files/terminal_settings.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "engine/files/probe.h"
#include "kernel/tty.h"

namespace stasis::engine::files {

namespace {

void store(const termios& settings, image::TermiosEntry& entry) {
  entry.set_c_iflag(settings.c_iflag);
  entry.set_c_oflag(settings.c_oflag);
  entry.set_c_cflag(settings.c_cflag);
  entry.set_c_lflag(settings.c_lflag);
  entry.set_c_line(settings.c_line);
  entry.set_c_ispeed(0);  // in c_cflag
  entry.set_c_ospeed(0);
  // The format has four of them in one word, and as many words as characters.
  std::array<uint32_t, NCCS> words{};
  memcpy(words.data(), settings.c_cc, sizeof settings.c_cc);
  for (uint32_t word : words) entry.add_c_cc(word);
}

termios load(const image::TermiosEntry& entry) {
  termios settings{};
  settings.c_iflag = entry.c_iflag();
  settings.c_oflag = entry.c_oflag();
  settings.c_cflag = entry.c_cflag();
  settings.c_lflag = entry.c_lflag();
  settings.c_line = static_cast<cc_t>(entry.c_line());
  const std::vector<uint32_t> words(entry.c_cc().begin(), entry.c_cc().end());
  memcpy(settings.c_cc, words.data(), std::min(sizeof settings.c_cc, words.size() * 4));
  return settings;
}

bool is_empty(const termios& settings) {
  termios none{};
  return memcmp(&settings, &none, sizeof none) == 0;
}

}  // namespace

void dump_settings(int fd, bool master, const Probe& probe, image::TtyInfoEntry& info) {
  if (int discipline = kernel::line_discipline(fd); discipline != 0)
    throw Error("dump", process_name(probe.pid))
        .because(fmt::format("it holds the terminal {} open as descriptor {}, which has the line "
                             "discipline {} of some device or protocol",
                             probe.link, probe.number, discipline))
        .hint("end what set it before the checkpoint");
  store(kernel::tty_settings(fd), *info.mutable_termios());
  store(kernel::locked_tty_settings(fd), *info.mutable_termios_locked());
  winsize size{};
  kernel::tty_ioctl(fd, TIOCGWINSZ, &size, "read the size of");
  info.mutable_winsize()->set_ws_row(size.ws_row);
  info.mutable_winsize()->set_ws_col(size.ws_col);
  info.mutable_winsize()->set_ws_xpixel(size.ws_xpixel);
  info.mutable_winsize()->set_ws_ypixel(size.ws_ypixel);
  info.set_exclusive(kernel::is_tty_exclusive(fd));
  if (!master) return;
  info.set_locked(kernel::is_pty_locked(fd));
  info.set_packet_mode(kernel::has_packet_mode(fd));
}

void restore_settings(int fd, const image::TtyInfoEntry& info) {
  if (info.has_termios()) kernel::set_tty_settings(fd, load(info.termios()));
  if (!info.has_winsize()) return;
  winsize size{static_cast<unsigned short>(info.winsize().ws_row()),
               static_cast<unsigned short>(info.winsize().ws_col()),
               static_cast<unsigned short>(info.winsize().ws_xpixel()),
               static_cast<unsigned short>(info.winsize().ws_ypixel())};
  kernel::tty_ioctl(fd, TIOCSWINSZ, &size, "set the size of");
}

void lock_settings(int fd, const image::TtyInfoEntry& info) {
  if (!info.has_termios_locked()) return;
  if (termios locked = load(info.termios_locked()); !is_empty(locked))
    kernel::lock_tty_settings(fd, locked);
}

}  // namespace stasis::engine::files
