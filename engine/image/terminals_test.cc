#include <catch2/catch.hpp>

#include "engine/image/check.h"

using namespace stasis;
using namespace stasis::image;

namespace {

TtyInfoEntry pty(uint32_t id) {
  TtyInfoEntry info;
  info.set_id(id);
  info.set_type(PTY);
  info.set_rdev(id % 2 ? 5 << 8 | 2 : 136 << 8 | id / 2);
  info.mutable_pty()->set_index(id / 2);
  for (int i = 0; i < 19; ++i) info.mutable_termios()->add_c_cc(0);
  return info;
}

void refused(const Checkpoint& image, const std::string& why) {
  CHECK_THROWS_WITH(check_terminals(image), Catch::Contains(why));
}

}  // namespace

TEST_CASE("terminals of an image are checked") {
  Checkpoint image;
  image.terminals = {pty(6), pty(7)};
  check_terminals(image);
  TtyInfoEntry& info = image.terminals[1];
  SECTION("numbers") {
    info.set_id(6);
    refused(image, "id 6 again");
  }
  SECTION("types") {
    info.set_type(VT);
    refused(image, "is a VT");
  }
  SECTION("a pty without number") {
    info.clear_pty();
    refused(image, "without a number");
  }
  SECTION("a number that would have us open a million") {
    info.mutable_pty()->set_index(1 << 20);
    refused(image, "index 1048576");
  }
  SECTION("settings") {
    info.mutable_termios()->clear_c_cc();
    refused(image, "0 words of control characters");
  }
  SECTION("the driver of a device") {
    info.mutable_termios()->set_c_line(3);
    refused(image, "line discipline 3");
  }
  SECTION("size") {
    info.mutable_winsize()->set_ws_col(70000);
    refused(image, "size 70000 x 0");
  }
  SECTION("the same end twice") {
    info.set_rdev(image.terminals[0].rdev());
    info.mutable_pty()->set_index(3);
    refused(image, "pty 3 again");
  }
  SECTION("data of none") {
    image.terminal_data.emplace_back().set_tty_id(9);
    refused(image, "tty_id 9");
  }
}
