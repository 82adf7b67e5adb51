#include "plugins/providers.h"

#include "base/error.h"
#include "kernel/directories.h"
#include "plugins/aufs.h"
#include "plugins/loaded.h"
#include "plugins/overlay.h"

namespace stasis::plugins {

namespace {

const mountmap::MountProvider& named(
    const std::vector<std::unique_ptr<mountmap::MountProvider>>& all, const std::string& name,
    const char* hint) {
  for (const auto& provider : all)
    if (provider->name() == name) return *provider;
  throw Error("make a mount of the image by", name)
      .because("there is none of this name")
      .hint(hint);
}

}  // namespace

Providers::Providers(const std::string& sysfs) {
  built_in_.push_back(std::make_unique<Aufs>(sysfs));
  built_in_.push_back(std::make_unique<Overlay>());
}

Providers Providers::with_plugins(const std::string& directory) {
  Providers providers;
  if (!directory.empty())
    providers.loaded_ = load_plugins(directory);
  else if (kernel::exists(default_plugin_dir))
    providers.loaded_ = load_plugins(default_plugin_dir);
  return providers;
}

const mountmap::MountProvider* Providers::of(const mountmap::Mount& mount) const {
  for (const All* all : {&loaded_, &built_in_})
    for (const auto& provider : *all)
      if (provider->claims(mount)) return provider.get();
  return nullptr;
}

std::vector<std::string> Providers::explain(const mountmap::ProvidedMount& mount) const {
  try {
    for (const All* all : {&loaded_, &built_in_})
      for (const auto& provider : *all)
        if (provider->name() == mount.provider) return provider->explain(mount.description);
    return {};
  } catch (const Error&) {
    return {};
  }
}

UniqueFd Providers::make(const mountmap::ProvidedMount& mount) const {
  return named(loaded_, mount.provider, "Install its plugin in the directory of plugins.")
      .make(mount.description);
}

UniqueFd Providers::make_root(const mountmap::ProvidedMount& mount) const {
  return named(built_in_, mount.provider, "Mount the root by hand.").make(mount.description);
}

void claim_rows(const Providers& providers, mountmap::MountMap& map) {
  using mountmap::MountClass;
  for (auto& row : map.rows) {
    bool is_root = row.kind == MountClass::root;
    if (row.mount.id == 0 || row.kind == MountClass::skipped ||
        row.action != mountmap::Action::keep || (row.configured && !is_root))
      continue;
    const auto* provider = providers.of(row.mount);
    if (!provider) continue;
    row.provided = {provider->name(), provider->describe(row.mount)};
    row.details = provider->explain(row.provided.description);
    if (is_root && row.source.empty()) row.source = root_place(row.provided);
    if (is_root) continue;
    row.kind = MountClass::provided;
    row.key.clear();
    row.reason = "made again by the plugin " + row.provided.provider;
    std::erase_if(map.findings, [&](const auto& finding) { return finding.mount == row.mount.id; });
  }
}

std::string root_place(const mountmap::ProvidedMount& root) {
  return root.provider == "aufs" ? docker_root(Aufs::parse(root.description)) : "";
}

mountmap::FindMappedFile mapped_files(const mountmap::ProvidedMount& root) {
  if (root.provider != "aufs") return {};
  return [stack = Aufs::parse(root.description)](const std::string& link) {
    return find_inside(stack, link);
  };
}

}  // namespace stasis::plugins
