#include "engine/mounts/layers.h"

#include <fmt/core.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "base/error.h"
#include "engine/mounts/mountpoint.h"
#include "engine/mounts/view.h"
#include "kernel/fs.h"
#include "kernel/mount_api.h"
#include "mountmap/overlay_layers.h"

namespace stasis::engine::mounts {

namespace {

constexpr uint64_t in_tree = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;

// Others would be for the kernel to understand, who might find directories named in them.
constexpr std::array<std::string_view, 13> plain_options{"redirect_dir",   "index",
                                                         "nfs_export",     "xino",
                                                         "metacopy",       "uuid",
                                                         "userxattr",      "volatile",
                                                         "verity",         "default_permissions",
                                                         "override_creds", "nooverride_creds",
                                                         "fsync"};

// Its directories have handles of the file systems they were on, of which tmpfs ones are new.
bool ties_to_file_systems(const mountmap::OverlayOption& option) {
  return (option.name == "index" || option.name == "nfs_export") && option.value == "on";
}

void check_option(const image::MntEntry& entry, const mountmap::OverlayOption& option) {
  if (mountmap::is_layer_option(option.name)) return;
  if (std::find(plain_options.begin(), plain_options.end(), option.name) == plain_options.end())
    throw layered_refusal(entry, "its option " + option.name + " isn't known");
  if (ties_to_file_systems(option))
    throw layered_refusal(
        entry, fmt::format("its option {}=on ties it to file systems that a restore makes "
                           "anew",
                           option.name));
}

// The layer as it is found from the tree's root, and as it was planned.
void check_place(const Node& node, const Layer& layer, int root, int mount, const Node& under) {
  long found = kernel::try_open_in(root, layer.path, O_PATH | O_DIRECTORY, in_tree);
  UniqueFd seen(static_cast<int>(found));
  std::string inside = relative_to(layer.path, under.entry->mountpoint());
  UniqueFd meant = inside.empty()
                       ? kernel::open_tree(mount, "", 0)
                       : kernel::open_in(mount, inside, O_PATH | O_DIRECTORY, within_mount);
  if (!seen.valid() || !is_same_place(seen.get(), meant.get()))
    throw layered_refusal(*node.entry,
                          "its layer " + layer.path + " can't be reached where it is to be");
}

}  // namespace

Error layered_refusal(const image::MntEntry& entry, std::string cause) {
  return Error("rebuild the mount", describe(entry))
      .because(std::move(cause))
      .hint("Unmount it in the container, or name it as external: --external mnt[" +
            entry.mountpoint() + "]:KEY, and at restore mnt[KEY]:SOURCE.");
}

bool is_layered(const image::MntEntry& entry) { return entry.fstype() == image::OVERLAYFS; }

std::vector<std::string> layer_paths(const image::MntEntry& entry) {
  if (entry.options().size() >= static_cast<size_t>(sysconf(_SC_PAGESIZE)))
    throw layered_refusal(entry, "its layers need more than a page of options");
  for (const auto& option : mountmap::overlay_options(entry.options())) check_option(entry, option);
  std::vector<std::string> paths;
  for (const auto& layer : mountmap::overlay_layers(entry.options())) {
    std::string path = mountmap::unescaped(layer.path);
    if (!is_plain_path(path))
      throw layered_refusal(entry,
                            fmt::format("its layer \"{}\" is no plain absolute path, and may have "
                                        "meant any directory",
                                        path));
    paths.push_back(std::move(path));
  }
  if (paths.empty()) throw layered_refusal(entry, "its layers aren't told");
  return paths;
}

void check_layers(const Tree& tree, const std::vector<Space>& spaces) {
  for (const Node& node : tree.nodes)
    for (const Layer& layer : node.layers) {
      const Node& under = tree.nodes[layer.node];
      const Space& space = spaces[node.space];
      auto id = static_cast<int>(under.entry->mnt_id());
      auto view = open_views(space, {space.table->find(id)});
      std::string inside = relative_to(layer.path, under.entry->mountpoint());
      if (inside.empty()) continue;
      UniqueFd found(static_cast<int>(
          kernel::try_open_in(view[0].get(), inside, O_PATH | O_DIRECTORY, within_mount)));
      if (!found.valid())
        throw layered_refusal(
            *node.entry, fmt::format("its layer {} isn't there: no directory {} in {}", layer.path,
                                     inside, describe(*under.entry)));
    }
}

void mount_layered(const Tree& tree, int i, const std::vector<UniqueFd>& mounts, int place) {
  const Node& node = tree.nodes[i];
  const int root = mounts[tree.roots[node.space]].get();
  for (const Layer& layer : node.layers)
    check_place(node, layer, root, mounts[layer.node].get(), tree.nodes[layer.node]);
  UniqueFd home = kernel::open("/", O_PATH | O_DIRECTORY);
  UniqueFd before = kernel::open(".", O_PATH | O_DIRECTORY);
  auto enter = [&](int directory) {
    kernel::must(kernel::call(SYS_fchdir, directory), "enter", "a directory of the mount tree");
  };
  // It is to say of itself what it said before, so its layers are named by their paths and not by
  // descriptors. The place itself is out of that root, but is where we are.
  enter(root);
  kernel::must(kernel::call(SYS_chroot, "."), "change the root to", "the mount tree");
  enter(place);
  const auto& entry = *node.entry;
  unsigned long flags = entry.sb_flags() & (MS_RDONLY | MS_SYNCHRONOUS | MS_DIRSYNC | MS_LAZYTIME);
  long result = kernel::call(SYS_mount, entry.source().c_str(), ".", "overlay", flags,
                             entry.options().c_str());
  enter(home.get());
  kernel::must(kernel::call(SYS_chroot, "."), "change the root back from", "the mount tree");
  enter(before.get());
  kernel::must(result, "mount the overlay", entry.mountpoint());
}

}  // namespace stasis::engine::mounts
