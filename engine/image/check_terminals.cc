// Terminals of the image.
#include <set>
#include <unordered_set>

#include "engine/image/check.h"

namespace stasis::image {

namespace {

constexpr uint32_t pty_limit = 4096;  // the kernel's default of kernel.pty.max
constexpr int control_characters = 19;
constexpr size_t data_limit = 128 << 10;  // the kernel holds less

void check_settings(const char* stem, int64_t at, const TermiosEntry& settings) {
  expect(settings.c_cc_size() >= control_characters, stem, at, "{} words of control characters",
         settings.c_cc_size());
  expect(settings.c_line() == 0, stem, at, "line discipline {}", settings.c_line());
}

}  // namespace

void check_terminals(const Checkpoint& image) {
  const char* stem = "tty-info";
  std::unordered_set<uint32_t> ids;
  std::set<std::tuple<uint32_t, uint32_t, uint32_t>> living;
  for (size_t i = 0; i < image.terminals.size(); ++i) {
    const TtyInfoEntry& info = image.terminals[i];
    auto at = static_cast<int64_t>(i);
    expect(ids.insert(info.id()).second, stem, at, "id {} again", info.id());
    expect(info.type() == PTY || info.type() == CTTY, stem, at,
           "is a {}, and only pseudoterminals can come back", TtyType_Name(info.type()));
    expect((info.type() == PTY) == info.has_pty(), stem, at, "is a {} with{} a number",
           TtyType_Name(info.type()), info.has_pty() ? "" : "out");
    expect(info.pty().index() < pty_limit, stem, at, "index {}", info.pty().index());
    expect(info.sid() < pid_limit && info.pgrp() < pid_limit, stem, at, "sid {}, pgrp {}",
           info.sid(), info.pgrp());
    if (info.has_winsize()) {
      const WinsizeEntry& size = info.winsize();
      uint32_t all = size.ws_row() | size.ws_col() | size.ws_xpixel() | size.ws_ypixel();
      expect(all <= 0xffff, stem, at, "size {} x {}", size.ws_col(), size.ws_row());
    }
    if (info.has_termios_locked()) check_settings(stem, at, info.termios_locked());
    if (!info.has_termios()) continue;
    check_settings(stem, at, info.termios());
    if (info.has_pty())
      expect(living.insert({info.dev(), info.pty().index(), info.rdev()}).second, stem, at,
             "pty {} again", info.pty().index());
  }
  for (size_t i = 0; i < image.terminal_data.size(); ++i) {
    const TtyDataEntry& data = image.terminal_data[i];
    auto at = static_cast<int64_t>(i);
    expect(ids.contains(data.tty_id()), "tty-data", at, "tty_id {} is not in tty-info.img",
           data.tty_id());
    expect(data.data().size() <= data_limit, "tty-data", at, "{} bytes", data.data().size());
  }
}

}  // namespace stasis::image
