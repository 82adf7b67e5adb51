#include "hook/readiness.h"

#include <catch2/catch.hpp>

#include "base/error.h"

namespace stasis::hook {

TEST_CASE("The ways to be ready are told apart, and what isn't one is refused") {
  using std::chrono::milliseconds;
  CHECK(parse_readiness("delay=5s").delay == milliseconds(5000));
  CHECK(parse_readiness("delay=5").delay == milliseconds(5000));
  CHECK(parse_readiness("delay=250ms").delay == milliseconds(250));
  CHECK(parse_readiness("delay=2m").delay == milliseconds(120000));
  CHECK(parse_readiness("file=/run/a=b").path == "/run/a=b");
  CHECK(parse_readiness("listen=8080").port == 8080);
  CHECK(parse_readiness("log=^up on [0-9]+=").regex == "^up on [0-9]+=");
  CHECK(parse_readiness("signal").kind == Readiness::Kind::signal);
  for (const char* wrong : {"", "delay", "delay=", "delay=-1s", "delay=1h", "delay=99999999999m",
                            "file=ready", "file=/", "file=/a/../b", "listen=0", "listen=65536",
                            "listen=http", "signal=1", "log=", "log=(", "soon"})
    CHECK_THROWS_AS(parse_readiness(wrong), Error);
}

TEST_CASE("Only a listening socket at the port counts") {
  const char* table =
      "  sl  local_address rem_address   st tx_queue rx_queue\n"
      "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000\n"
      "   1: 0100007F:0050 0100007F:0051 01 00000000:00000000\n";
  CHECK(listens(table, 8080));
  CHECK_FALSE(listens(table, 80));
  CHECK_FALSE(listens(table, 81));
  CHECK(listens("   0: 00000000000000000000000000000000:1F90 0:0000 0A 0\n", 8080));
  CHECK_FALSE(listens("", 8080));
}

}  // namespace stasis::hook
