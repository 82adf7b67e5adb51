#include "cli/check.h"

#include <fmt/core.h>
#include <sys/utsname.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/features.h"

namespace stasis::cli {
namespace {

void print_json(const std::vector<Feature>& features, bool ready, FILE* out) {
  auto list = nlohmann::ordered_json::array();
  for (const Feature& feature : features) {
    nlohmann::ordered_json entry = {
        {"name", feature.name}, {"present", feature.present}, {"required", feature.required}};
    if (!feature.present) entry["cost"] = feature.cost;
    list.push_back(std::move(entry));
  }
  fmt::print(out, "{}\n", nlohmann::ordered_json{{"ready", ready}, {"features", list}}.dump(2));
}

void print_table(const std::vector<Feature>& features, bool ready, FILE* out) {
  size_t width = 0;
  for (const Feature& feature : features) width = std::max(width, feature.name.size());
  for (const Feature& feature : features) {
    if (feature.present)
      fmt::print(out, "{:<{}}  yes\n", feature.name, width);
    else
      fmt::print(out, "{:<{}}  {:<7}  {}\n", feature.name, width,
                 feature.required ? "MISSING" : "no", feature.cost);
  }
  utsname system{};
  uname(&system);
  fmt::print(
      out, "\n{} {}: {}\n", system.sysname, system.release,
      ready ? "stasis can work here" : "stasis can't work here: something required is missing");
}

}  // namespace

int check(bool json, FILE* out) {
  std::vector<Feature> features = probe_features();
  bool ready = std::all_of(features.begin(), features.end(),
                           [](const Feature& f) { return f.present || !f.required; });
  if (json)
    print_json(features, ready, out);
  else
    print_table(features, ready, out);
  return ready ? 0 : 1;
}

}  // namespace stasis::cli
