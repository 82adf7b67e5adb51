// `stasis plan`: what a checkpoint would do with every mount, and what stands
// in its way. Finding the container is shared with `stasis checkpoint`.
#pragma once

#include <sys/types.h>

#include <cstdio>
#include <map>
#include <optional>
#include <string>

#include "engine/plan.h"
#include "mountmap/mount_map.h"
#include "mountmap/policy.h"
#include "oci/config.h"
#include "oci/state.h"
#include "plugins/providers.h"

namespace stasis::cli {

struct ContainerQuery {  // one of the first three
  std::string id;
  pid_t pid = 0;
  std::string bundle;
  std::string runc_root{oci::default_runc_root};
  std::string policy_file;       // empty: the machine's
  bool policy_on_trial = false;  // shown only: anybody may have written it
};

struct Container {
  std::string id;  // empty for a plain process
  std::string bundle;
  pid_t init = 0;  // 0: not running, known by its bundle alone
  std::optional<oci::RuncState> state;
  std::optional<oci::Config> config;
  mountmap::MountMap map;
  mountmap::Policy policy;
  plugins::Providers providers;
  std::map<std::string, std::string> cgroups;  // controller ("" for v2) -> directory
};

// Throws Error where there is no such container or it can't be read.
Container open_container(const ContainerQuery& query);

// Reads the config and the mounts of a container that runs, of which id, bundle,
// init, policy and providers are known.
void look_into(Container& container);

// What the engine is to do; options of the command are the caller's to set.
// Throws where nothing runs.
engine::DumpPlan build_dump_plan(const Container& container);

struct PlanOptions {
  ContainerQuery container;
  bool json = false;
  bool color = false;  // escape sequences; callers look whether `out` is a terminal
};

// Exit code: 0 can be checkpointed, 1 something stands in the way.
int plan(const PlanOptions& options, FILE* out);

}  // namespace stasis::cli
