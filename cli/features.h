// What this kernel and this user's capabilities offer to stasis, found by
// asking, not by version numbers.
#pragma once

#include <string>
#include <vector>

namespace stasis::cli {

struct Feature {
  std::string name;
  bool present = false;
  bool required = false;
  std::string cost;  // of its absence
};

std::vector<Feature> probe_features();

}  // namespace stasis::cli
