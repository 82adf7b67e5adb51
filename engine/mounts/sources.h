// Where a restore takes the mounts of the host from. Everything is resolved,
// compared and held before anything is made.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/unique_fd.h"
#include "engine/image/checkpoint.h"
#include "engine/mounts/tree.h"
#include "engine/plan.h"

namespace stasis::image {
class ImageWriter;
}

namespace stasis::engine::mounts {

// stasis.img: what the sources of the plan's external mounts are.
void write_sources(const DumpPlan& plan, const std::vector<image::MountIdMap>& id_maps,
                   image::ImageWriter& writer);

class Sources {
 public:
  Sources(const image::Checkpoint& checkpoint, const RestorePlan& plan, const Tree& tree, Log& log);

  // Of the root and of each external node a copy of the host's mount, attached
  // nowhere; others are invalid. Throws where a source is missing, isn't what
  // it was, or where a directory would be mounted on a file.
  std::vector<UniqueFd> hold_all();

  // The device of an entry that was written with "dev[NAME]" as its source.
  std::string device_of(const image::MntEntry& entry) const;

 private:
  UniqueFd hold(const Node& node);
  UniqueFd hold_provided(const Node& node) const;
  UniqueFd hold_automatic(const Node& node);
  UniqueFd hold_path(const Node& node, const std::string& path);
  UniqueFd uncover(const Node& node, const image::HostSourceEntry& record,
                   const mountmap::HostPlace& place);
  void tell_other_file_system(const Node& node, const image::HostSourceEntry& record, int source);
  const image::HostSourceEntry* record_of(const image::MntEntry& entry) const;
  void check_same(const Node& node, const image::HostSourceEntry& record,
                  const std::string& path) const;
  void check_target(int i, const std::vector<UniqueFd>& sources) const;
  void check_keys() const;
  const mountmap::MountTable& host();

  const image::Checkpoint& checkpoint_;
  const RestorePlan& plan_;
  const Tree& tree_;
  Log& log_;
  const bool same_boot_;  // as at the dump
  std::optional<mountmap::MountTable> host_;
};

}  // namespace stasis::engine::mounts
