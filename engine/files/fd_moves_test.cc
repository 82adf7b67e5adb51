#include "engine/files/fd_moves.h"

#include <catch2/catch.hpp>
#include <map>
#include <random>

#include "base/error.h"

using namespace stasis::engine::files;

namespace {

struct Open {
  int file;
  bool cloexec;
  bool operator==(const Open&) const = default;
};
using Table = std::map<int, Open>;

// What the kernel would do; a step on a closed descriptor fails the test.
Table carry_out(Table table, const std::vector<FdStep>& steps) {
  for (const FdStep& step : steps) {
    REQUIRE(table.contains(step.fd));
    switch (step.kind) {
      case FdStep::Kind::dup3:
        REQUIRE(step.fd != step.target);  // EINVAL
        table[step.target] = {table[step.fd].file, step.cloexec};
        break;
      case FdStep::Kind::close:
        table.erase(step.fd);
        break;
      case FdStep::Kind::set_cloexec:
        table[step.fd].cloexec = step.cloexec;
        break;
    }
  }
  return table;
}

void check(const std::vector<FdMove>& moves) {
  Table before, wanted;
  for (const FdMove& move : moves) before[move.from] = {1000 + move.from, true};
  for (const FdMove& move : moves) wanted[move.to] = {1000 + move.from, move.cloexec};
  CHECK(carry_out(before, plan_fd_moves(moves)) == wanted);
}

}  // namespace

TEST_CASE("descriptors are moved to their numbers") {
  check({});
  check({{3, 0, false}});
  check({{3, 3, true}, {4, 4, false}});
  check({{3, 4, false}, {4, 5, true}, {5, 6, false}});
  check({{5, 4, false}, {4, 3, true}});
}

TEST_CASE("cycles go through a spare number that is closed again") {
  check({{3, 4, false}, {4, 3, true}});
  check({{3, 4, false}, {4, 5, true}, {5, 3, false}});
  check({{3, 4, false}, {4, 3, true}, {7, 8, false}, {8, 7, false}});
  auto steps = plan_fd_moves({{3, 4, false}, {4, 3, true}});
  REQUIRE(steps.size() == 4);
  CHECK(steps.front() == FdStep{FdStep::Kind::dup3, 3, 5, true});
  CHECK(steps.back() == FdStep{FdStep::Kind::close, 5});
}

TEST_CASE("one descriptor can be wanted at several numbers") {
  check({{3, 0, false}, {3, 1, false}, {3, 2, true}});
  check({{3, 4, false}, {3, 5, false}, {4, 3, true}});
  check({{3, 3, true}, {3, 5, false}});
}

TEST_CASE("random tables end as wanted") {
  std::mt19937 random(7);
  for (int round = 0; round < 500; ++round) {
    std::vector<FdMove> moves;
    for (int to = 0; to < 12; ++to)
      if (random() % 2) moves.push_back({static_cast<int>(random() % 12), to, random() % 2 == 0});
    check(moves);
  }
}

TEST_CASE("impossible wishes are refused") {
  CHECK_THROWS_AS(plan_fd_moves({{3, 4, false}, {5, 4, false}}), stasis::Error);
  CHECK_THROWS_AS(plan_fd_moves({{-1, 4, false}}), stasis::Error);
}
