#include "rpc/provided.h"

#include <fcntl.h>
#include <fmt/core.h>

#include "kernel/fs.h"
#include "mountmap/paths.h"
#include "mountmap/policy.h"
#include "oci/config.h"

namespace stasis::rpc {
namespace {

using mountmap::Mount;

bool accounted_for(const engine::DumpPlan& plan, int id) {
  return plan.external_mounts.contains(id) || plan.skipped_mounts.contains(id) ||
         plan.content_mounts.contains(id) || plan.recreated_mounts.contains(id);
}

// --root serves CRIU to find the files of aufs by their paths; the container
// itself leads there as well, so what remains is to see that both are the same.
void check_root(const std::string& given, const engine::DumpPlan& plan) {
  UniqueFd named = kernel::open(given, O_PATH | O_DIRECTORY);
  UniqueFd real = kernel::open(fmt::format("/proc/{}/root", plan.root), O_PATH | O_DIRECTORY);
  auto a = kernel::stat_fd(named.get()), b = kernel::stat_fd(real.get());
  if (a.stx_ino == b.stx_ino && a.stx_dev_major == b.stx_dev_major &&
      a.stx_dev_minor == b.stx_dev_minor)
    return;
  throw Error("use the root", given)
      .because(fmt::format("process {} has another one", plan.root))
      .hint("Name the directory that its aufs is mounted on.");
}

// The mounts of the root's file system are written down as parts of the
// directory that it is mounted on.
void write_as(const engine::DumpPlan& plan, const Mount& reference, const std::string& directory,
              std::map<int, engine::WrittenMount>& written) {
  const Mount& root = plan.mounts.root();
  for (const Mount& mount : plan.mounts.mounts())
    if (mount.major == root.major && mount.minor == root.minor &&
        !plan.external_mounts.contains(mount.id))
      written[mount.id] = {.major = reference.major,
                           .minor = reference.minor,
                           .root = mountmap::rebase(mount.root, "/", directory),
                           .source = reference.source,
                           .options = reference.sb_options};
}

}  // namespace

std::shared_ptr<const plugins::Providers> providers(const Settings& settings) {
  std::string directory = settings.plugins;
  if (directory.empty()) directory = mountmap::load_policy().plugins;
  return std::make_shared<plugins::Providers>(plugins::Providers::with_plugins(directory));
}

void provide_mounts(const Settings& settings, engine::RestorePlan& plan) {
  plan.make_provided = [all = providers(settings)](const mountmap::ProvidedMount& mount) {
    return all->make(mount);
  };
}

void describe_mounts(const plugins::Providers& providers, engine::DumpPlan& plan, Log& log) {
  for (const Mount& mount : plan.mounts.mounts()) {
    bool is_root = mount.id == plan.mounts.root().id;
    if (!is_root && accounted_for(plan, mount.id)) continue;
    const auto* provider = providers.of(mount);
    if (!provider) continue;
    std::string description = provider->describe(mount);
    for (const std::string& line : provider->explain(description)) log.info("{}", line);
    auto& provided = plan.provided_mounts[mount.id];
    provided = {provider->name(), std::move(description)};
    if (is_root) plan.find_mapped_file = plugins::mapped_files(provided);
  }
}

void apply_root_options(const Settings& settings, engine::DumpPlan& plan, Log& log) {
  const Mount& root = plan.mounts.root();
  bool asked = settings.aufs || !settings.aufs_root.empty() || !settings.aufs_ref.empty();
  if (root.fstype != "aufs") {
    if (asked) log.warn("The root of process {} is {}, no aufs", plan.root, root.fstype);
    return;
  }
  std::string directory = settings.aufs_root.empty() ? settings.opts.root() : settings.aufs_root;
  if (!directory.empty())
    check_root(directory, plan);
  else if (auto told = plan.provided_mounts.find(root.id); told != plan.provided_mounts.end())
    directory = plugins::root_place(told->second);
  if (settings.aufs_ref.empty() && settings.aufs_root.empty()) return;
  if (directory.empty())
    throw Error("use the reference for aufs", settings.aufs_ref)
        .because("the directory that the root is mounted on isn't named")
        .hint("--aufs-root DIR");
  std::string point = settings.aufs_ref.empty() ? "/" : oci::clean_path(settings.aufs_ref);
  const Mount* reference = plan.mounts.at(point);
  if (reference->mountpoint != point)
    throw Error("use the reference for aufs", settings.aufs_ref)
        .because("nothing is mounted there in the container")
        .hint("Name the mountpoint of a file or directory of the host's disk.");
  write_as(plan, *reference, oci::clean_path(directory), plan.written_mounts);
}

}  // namespace stasis::rpc
