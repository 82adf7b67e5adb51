#include "engine/files/fd_moves.h"

#include <algorithm>
#include <map>
#include <set>
#include <string>

#include "base/error.h"

namespace stasis::engine::files {

namespace {

class Planner {
 public:
  explicit Planner(const std::vector<FdMove>& moves) : open_moves_(moves) {
    for (const FdMove& move : moves) {
      if (move.from < 0 || move.to < 0)
        throw Error("place descriptors", std::to_string(move.to)).because("a negative number");
      if (!targets_.insert(move.to).second)
        throw Error("place descriptors", std::to_string(move.to)).because("wanted twice");
      sources_.insert(move.from);
      spare_ = std::max({spare_, move.from + 1, move.to + 1});
    }
  }

  std::vector<FdStep> run() {
    stay_in_place();
    while (!open_moves_.empty())
      if (!move_what_is_free()) break_cycle();
    for (int fd : sources_)
      if (!targets_.contains(fd)) steps_.push_back({FdStep::Kind::close, fd});
    return std::move(steps_);
  }

 private:
  void stay_in_place() {
    std::erase_if(open_moves_, [this](const FdMove& move) {
      if (move.from != move.to) return false;
      steps_.push_back({FdStep::Kind::set_cloexec, move.to, -1, move.cloexec});
      return true;
    });
    for (const FdMove& move : open_moves_) ++readers_[move.from];
  }

  bool move_what_is_free() {
    size_t before = open_moves_.size();
    std::erase_if(open_moves_, [this](const FdMove& move) {
      if (auto waiting = readers_.find(move.to); waiting != readers_.end() && waiting->second > 0)
        return false;
      steps_.push_back({FdStep::Kind::dup3, move.from, move.to, move.cloexec});
      --readers_[move.from];
      return true;
    });
    return open_moves_.size() != before;
  }

  // Every target left is still needed as a source: move one source aside.
  void break_cycle() {
    int aside = spare_++;
    int from = open_moves_.front().from;
    steps_.push_back({FdStep::Kind::dup3, from, aside, true});
    for (FdMove& move : open_moves_)
      if (move.from == from) move.from = aside;
    readers_[aside] = readers_[from];
    readers_[from] = 0;
    sources_.insert(aside);
  }

  std::vector<FdMove> open_moves_;
  std::set<int> sources_, targets_;
  std::map<int, int> readers_;  // descriptor -> moves that still read it
  std::vector<FdStep> steps_;
  int spare_ = 0;
};

}  // namespace

std::vector<FdStep> plan_fd_moves(const std::vector<FdMove>& moves) { return Planner(moves).run(); }

}  // namespace stasis::engine::files
