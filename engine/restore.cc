// A restore from top to bottom: validate, prepare, make the root task and its
// namespaces, grow the tree, fill memory, equip, confine, let go together.

#include <fmt/format.h>
#include <sys/syscall.h>

#include "engine/files/restorer.h"
#include "engine/image/checkpoint.h"
#include "engine/image/format.h"
#include "engine/memory/vdso.h"
#include "engine/memory/vma.h"
#include "engine/mounts/handover.h"
#include "engine/mounts/mounts.h"
#include "engine/namespaces/cgroup_restorer.h"
#include "engine/namespaces/namespaces.h"
#include "engine/namespaces/timens.h"
#include "engine/namespaces/userns.h"
#include "engine/plan.h"
#include "engine/stopwatch.h"
#include "engine/tasks/controlling_terminal.h"
#include "engine/tasks/needed_calls.h"
#include "engine/tasks/processor.h"
#include "engine/tasks/revive.h"
#include "engine/tasks/root_task.h"
#include "kernel/fs.h"

namespace stasis::engine {

namespace {

void write_pidfile(const std::string& path, pid_t pid) {
  UniqueFd file = kernel::open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0644);
  kernel::write_all(file.get(), std::to_string(pid), path);
}

uint64_t restored_pages(const image::Checkpoint& checkpoint) {
  uint64_t pages = 0;
  for (const image::TaskImage& task : checkpoint.tasks)
    for (const image::PagemapEntry& entry : task.pagemap) pages += image::page_count(entry);
  return pages;
}

struct RootParts {
  const image::Checkpoint& checkpoint;
  const RestorePlan& plan;
  const namespaces::Layout& layout;
  std::optional<mounts::Builder>& mounts;
  cgroup::Restorer& cgroups;
};

// The root task in its namespaces; it has yet to build what only the inside can.
RootTask& make_root(std::optional<RootTask>& made, const RootParts& parts) {
  const image::Checkpoint& checkpoint = parts.checkpoint;
  const bool own_users = (parts.layout.clone_flags & CLONE_NEWUSER) != 0;
  if (!own_users) timens::prepare(checkpoint);
  std::optional<mounts::Handover> handover;
  if (own_users && parts.mounts) parts.mounts->hand_over(handover);
  RootTask& root = made.emplace(
      parts.layout, static_cast<pid_t>(checkpoint.root().tree.pid()), parts.plan.sibling, [&] {
        if (own_users) {
          userns::become_root();
          timens::enter(checkpoint);
        }
        parts.cgroups.make_namespace();
        return parts.mounts ? to_text(parts.mounts->build()) : std::string();
      });
  parts.cgroups.place_root(root.pid());
  // Only now: the root task inherits the container's cgroups.
  parts.cgroups.leave();
  handover.reset();
  namespaces::restore(checkpoint, parts.plan, root.pid());
  return root;
}

}  // namespace

RestoreResult restore(const RestorePlan& plan, int image_dir, Observer& observer, Log& log) {
  Stopwatch watch;
  image::Checkpoint checkpoint = image::load(image_dir);
  LiveTree::check(checkpoint);
  needed_calls::check(checkpoint);
  fit_vdso(checkpoint, Revival::taken_addresses(checkpoint));
  if (std::string lacks = processor::missing(checkpoint); !lacks.empty())
    log.warn("This processor lacks instructions that the checkpoint's had: {}", lacks);
  files::check_terminals(checkpoint, plan);
  files::check_connections(checkpoint, plan);
  namespaces::Layout layout = namespaces::layout(checkpoint, plan);
  std::optional<mounts::Builder> mounts;
  if (layout.clone_flags & CLONE_NEWNS) mounts.emplace(checkpoint, plan, log);
  files::Restorer files(checkpoint, plan, log);
  cgroup::Restorer cgroups(checkpoint, plan, log);
  Trampoline trampoline(Revival::taken_addresses(checkpoint));
  FdSender sender(Revival::sender_number(checkpoint));
  PageCopier copier(plan.workers);
  observer.pre_restore();

  // From the namespaces' own files (mqueue) on, all is the container's root's.
  std::optional<userns::CreateAsRoot> create_as_root;
  create_as_root.emplace(userns::IdMap(checkpoint.userns));
  std::optional<RootTask> made;
  RootTask& root = make_root(made, {checkpoint, plan, layout, mounts, cgroups});
  log.info("Made the root task {}", root.pid());
  UniqueFd network = kernel::open(fmt::format("/proc/{}/ns/net", root.pid()), O_RDONLY);
  files.set_network(network.get());
  files.connections().hold(files);  // before anybody connects the network
  observer.setup_namespaces(root.pid());
  namespaces::restore_links(checkpoint, plan, root.pid(), log);
  mounts::Built built = mounts::take_over(root.pid(), root.build());
  files.set_hidden(std::move(built.hidden));
  for (auto& [id, master] : built.ptys) files.terminals().adopt(id, std::move(master));
  observer.post_setup_namespaces(root.pid());
  Stopwatch forking;

  UniqueFd container_root = kernel::open(fmt::format("/proc/{}/root", root.pid()), O_PATH);
  files.set_root(container_root.get());
  std::map<uint32_t, UniqueFd> nested_mounts;  // namespaces by number
  std::map<uint32_t, UniqueFd> nested_roots;
  for (auto& [ns_id, space] : built.spaces) {
    nested_mounts[ns_id] = std::move(space.ns);
    nested_roots[ns_id] = std::move(space.root);
  }
  files.set_nested_roots(std::move(nested_roots));
  Revival revival(
      {checkpoint, plan, trampoline, sender, files, cgroups, nested_mounts, copier, log});
  revival.strip(root.tracee());
  ControllingTerminals terminals(files, trampoline, sender);
  LiveTree tree(checkpoint, trampoline,
                {.before_children = [&](LiveTask& task) { revival.bequeath(task); },
                 .leads = [&](LiveTask& task) { terminals.give(task); }});
  tree.grow(std::move(root.tracee()), root.pid());
  RestoreResult result;
  result.forking_us = forking.microseconds();

  terminals.finish(tree);
  revival.fill(tree, [&](uint64_t done, uint64_t total) { observer.progress(done, total); });
  if (checkpoint.ipc) namespaces::finish_ipc(checkpoint, *checkpoint.ipc, root.pid());
  for (const UniqueFd& master : files.terminals().take_orphans())
    observer.orphan_pts_master(master.get());
  for (LiveTask& task : tree.tasks())
    if (!task.image->dead()) tree.grow_threads(task);
  for (LiveTask& task : tree.tasks()) revival.confine(task);
  create_as_root.reset();

  result.root = root.pid();
  result.pages_restored = restored_pages(checkpoint);
  observer.post_restore(root.pid());
  observer.network_unlock();
  observer.pre_resume(root.pid());
  if (!plan.pidfile.empty()) write_pidfile(plan.pidfile, root.pid());
  cgroups.commit();
  result.restore_us = watch.microseconds();
  observer.post_resume(root.pid());
  log.info("Restore finished successfully: process {} goes on", root.pid());
  files.connections().release(checkpoint.inventory.dump_criu_run_id());
  observer.restored(result);
  // Nothing may come behind this that could fail or take time.
  tree.release();
  root.keep();
  return result;
}

}  // namespace stasis::engine
