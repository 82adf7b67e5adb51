#include "engine/tasks/fd_sender.h"

#include <fcntl.h>
#include <unistd.h>

#include <catch2/catch.hpp>

namespace stasis::engine {
namespace {

TEST_CASE("the tasks' end lies on a number of its own, whatever is open here") {
  UniqueFd taken(fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 40));
  REQUIRE(taken.valid());
  FdSender sender(taken.get());
  CHECK(sender.number() > taken.get());
  // Nobody gets that number from now on.
  UniqueFd next(fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, sender.number()));
  CHECK(next.get() > sender.number());
}

}  // namespace
}  // namespace stasis::engine
