// Turns the processes of a LiveTree, which have nothing but the trampoline,
// into the dumped ones.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "engine/files/restorer.h"
#include "engine/memory/heritage.h"
#include "engine/memory/pages.h"
#include "engine/memory/shared_areas.h"
#include "engine/namespaces/cgroup_restorer.h"
#include "engine/plan.h"
#include "engine/remote/trampoline.h"
#include "engine/tasks/confinement.h"
#include "engine/tasks/fd_sender.h"
#include "engine/tasks/live_tree.h"

namespace stasis::engine {

class Revival {
 public:
  struct Tools {
    const image::Checkpoint& checkpoint;
    const RestorePlan& plan;
    Trampoline& trampoline;
    FdSender& sender;
    files::Restorer& files;
    cgroup::Restorer& cgroups;
    // Mount namespaces beside the root task's, by their number in the image.
    const std::map<uint32_t, UniqueFd>& mount_namespaces;
    PageCopier& copier;
    Log& log;
    const Inherited* inherited = nullptr;  // null: all is of our making
  };
  explicit Revival(Tools tools);
  ~Revival();

  // Where the image's tasks have something: see Trampoline.
  static std::vector<std::pair<uint64_t, uint64_t>> taken_addresses(
      const image::Checkpoint& checkpoint);
  // Number of the descriptor by which tasks receive others: see FdSender.
  static int sender_number(const image::Checkpoint& checkpoint);

  // Opens all that any task holds or maps. Otherwise done when it is needed.
  void open_files();
  // What the root child brings from our own process and has to lose first.
  void strip(Tracee& root);
  // Before a task has children: where one of them was forked from it and shares
  // pages with it, its memory is laid out and filled at once.
  void bequeath(LiveTask& task);
  // All tasks get their memory, descriptors and actions; of the files nothing
  // is left to us. Threads follow.
  void fill(LiveTree& tree, const std::function<void(uint64_t done, uint64_t total)>& progress);
  // Last: what confines a task, and its registers.
  void confine(LiveTask& task);

 private:
  struct Descriptors;  // what a task was sent, and as which number
  void lay_out_memory(LiveTask& task);
  void fill_memory_files();  // of all tasks, once these are laid out
  void patch_memory(const LiveTask& task);
  void equip(LiveTask& task);
  Descriptors& descriptors_of(const image::TaskImage& task);
  std::map<size_t, int> mapped_descriptors(const image::TaskImage& task, Descriptors& d);
  void map_memory(LiveTask& task, const std::map<size_t, int>& descriptors, SyscallBatch& batch,
                  PageCopier& copier);
  void place_descriptors(LiveTask& task, const Descriptors& sent, SyscallBatch& batch);

  Tools t_;
  Confinement confinement_;
  SharedAreas shared_;
  std::map<const image::TaskImage*, std::unique_ptr<Descriptors>> sent_;
  std::map<std::pair<uint32_t, uint32_t>, UniqueFd> mapped_files_;  // by file id and flags
  std::vector<UniqueFd> pages_;                  // page images and memory, until they are read
  std::set<const image::TaskImage*> ancestors_;  // in memory, of other tasks
};

}  // namespace stasis::engine
