// The container's mount tree: written down as mountpoints-N.img with the
// content of its tmpfs (tmpfs-dev-N.tar.gz), and built up again.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "base/log.h"
#include "engine/mounts/built.h"
#include "engine/mounts/handover.h"
#include "engine/plan.h"

namespace stasis::image {
class ImageWriter;
struct Checkpoint;
}  // namespace stasis::image

namespace stasis::engine::mounts {

// What of the plan's mounts could not be built up again. Looks at the plan
// only, never at the container.
std::vector<Finding> obstacles(const DumpPlan& plan);

// Writes the mounts of the plan and the content of every tmpfs that is the
// container's own. The container's tasks are stopped. `ns_ids`: of the root
// task's mount namespace and of the nested ones, in the plan's order.
void dump(const DumpPlan& plan, const std::vector<uint32_t>& ns_ids, image::ImageWriter& writer,
          Log& log);

// Devices of mounts of which the image holds the content (tree.h).
std::set<uint32_t> stored_devices(const image::Checkpoint& checkpoint);

// What it is made from must outlive it.
class Builder {
 public:
  // In the coordinator, before there is any task. Takes hold of the root and of
  // every external source; throws where one is missing or of the wrong kind.
  Builder(const image::Checkpoint& checkpoint, const RestorePlan& plan, Log& log);
  ~Builder();

  // In the coordinator, right before the root child is cloned into a user
  // namespace of its own; `handover` may go afterwards.
  void hand_over(std::optional<Handover>& handover);

  // In the root child, alone in its new mount namespace, which is a copy of the
  // host's. Other namespaces (pid, ipc, net, cgroup) are the container's, so
  // that proc, mqueue, sysfs and cgroup show them. Afterwards the tree is
  // the namespace's only one, and / is the working directory. Further mount
  // namespaces of the container are made beside it.
  Built build();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace stasis::engine::mounts
