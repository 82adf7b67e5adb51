#include "hook/user_fit.h"

#include <fmt/core.h>
#include <sched.h>

#include <algorithm>
#include <array>

namespace stasis::hook {
namespace {

using Extents = google::protobuf::RepeatedPtrField<image::UidGidExtent>;
using Range = std::array<uint32_t, 3>;  // inside, outside, count

// In their order, and without seams: 0..9 and 10..19 side by side are one.
std::vector<Range> in_order(std::vector<Range> ranges) {
  std::sort(ranges.begin(), ranges.end());
  std::vector<Range> result;
  for (const Range& range : ranges) {
    if (range[2] == 0) continue;
    Range* last = result.empty() ? nullptr : &result.back();
    if (last && (*last)[0] + (*last)[2] == range[0] && (*last)[1] + (*last)[2] == range[1])
      (*last)[2] += range[2];
    else
      result.push_back(range);
  }
  return result;
}

std::vector<Range> ranges_of(const Extents& extents) {
  std::vector<Range> ranges;
  ranges.reserve(static_cast<size_t>(extents.size()));
  for (const image::UidGidExtent& extent : extents)
    ranges.push_back({extent.first(), extent.lower_first(), extent.count()});
  return in_order(std::move(ranges));
}

std::vector<Range> ranges_of(const std::vector<oci::IdMapping>& mappings) {
  std::vector<Range> ranges;
  ranges.reserve(mappings.size());
  for (const oci::IdMapping& mapping : mappings)
    ranges.push_back({mapping.container, mapping.host, mapping.size});
  return in_order(std::move(ranges));
}

std::string to_text(const std::vector<Range>& ranges) {
  std::string text;
  for (const Range& range : ranges)
    text += fmt::format("{}{} as {} ({} of them)", text.empty() ? "" : ", ", range[0], range[1],
                        range[2]);
  return text.empty() ? "none" : text;
}

}  // namespace

std::vector<mountmap::MapFinding> compare_users(const image::Checkpoint& image,
                                                const oci::Config& config) {
  std::vector<mountmap::MapFinding> findings;
  auto refuse = [&](std::string what, std::string remedy) {
    findings.push_back(
        {mountmap::Severity::obstacle, "the user namespace", std::move(what), std::move(remedy)});
  };
  if (image.tasks.empty()) return findings;
  const bool has = (image.namespaces() & CLONE_NEWUSER) != 0;
  const bool wanted = config.has_namespace("user");
  if (has != wanted) {
    refuse(
        has ? "is in the checkpoint, but config.json has none"
            : "of config.json isn't in the checkpoint: what was root of the host would be so again",
        has ? "add it to linux.namespaces of config.json, with the checkpoint's id maps"
            : "take it out of config.json, or checkpoint a container that has one");
    return findings;
  }
  if (!has || !image.userns) return findings;
  for (const oci::ConfigNamespace& space : config.namespaces)
    if (space.type == "user" && !space.path.empty())
      refuse("would have to be " + space.path + ", says config.json; a restore makes a new one",
             "leave its path out");
  auto compare = [&](const char* kind, const Extents& then,
                     const std::vector<oci::IdMapping>& now) {
    auto before = ranges_of(then), after = ranges_of(now);
    if (before == after) return;
    refuse(fmt::format("maps {}s otherwise: {} in the checkpoint, {} in config.json", kind,
                       to_text(before), to_text(after)),
           fmt::format("write the checkpoint's into linux.{}Mappings", kind));
  };
  compare("uid", image.userns->uid_map(), config.uid_mappings);
  compare("gid", image.userns->gid_map(), config.gid_mappings);
  return findings;
}

}  // namespace stasis::hook
