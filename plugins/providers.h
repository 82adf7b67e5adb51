// All providers of mounts: the built-in ones, and those loaded from files.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "mountmap/mapped_file.h"
#include "mountmap/mount_map.h"
#include "mountmap/mount_provider.h"

namespace stasis::plugins {

class Providers {
 public:
  // The built-in ones. `sysfs`: where sysfs is mounted.
  explicit Providers(const std::string& sysfs = "/sys");

  // And those of a directory; an empty path is the default one, if it is there.
  static Providers with_plugins(const std::string& directory);

  // Null: nobody claims the mount.
  const mountmap::MountProvider* of(const mountmap::Mount& mount) const;

  // For people; nothing of providers that aren't there, or don't understand it.
  std::vector<std::string> explain(const mountmap::ProvidedMount& mount) const;

  // What a plugin wrote down: which mounts these make is for who installed
  // them to say.
  UniqueFd make(const mountmap::ProvidedMount& mount) const;

  // What a built-in provider wrote down of a root: any of the host's
  // directories, so only where the user asks for it.
  UniqueFd make_root(const mountmap::ProvidedMount& mount) const;

 private:
  using All = std::vector<std::unique_ptr<mountmap::MountProvider>>;
  All built_in_, loaded_;
};

// Lets the providers describe the root and those mounts that nothing else
// accounts for: neither config.json nor the policy.
void claim_rows(const Providers& providers, mountmap::MountMap& map);

// Where the host has the root mounted, by the layout of its layers; empty where
// that doesn't tell.
std::string root_place(const mountmap::ProvidedMount& root);

// How mapped files are found in a root that was described like this; empty
// where the kernel tells them right.
mountmap::FindMappedFile mapped_files(const mountmap::ProvidedMount& root);

}  // namespace stasis::plugins
