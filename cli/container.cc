// Finding a container, and what the engine is to do with it.
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <filesystem>

#include "cli/plan.h"
#include "hook/record.h"
#include "kernel/fs.h"
#include "kernel/proc_misc.h"

namespace stasis::cli {

namespace {

std::string proc(pid_t pid, std::string_view name) { return fmt::format("/proc/{}/{}", pid, name); }

bool same_directory(const std::string& a, const std::string& b) {
  std::error_code error;
  return std::filesystem::equivalent(a, b, error) && !error;
}

std::optional<oci::RuncState> find_running(const ContainerQuery& query) {
  if (query.pid > 0) {
    auto roots = oci::runc_roots();
    roots.push_back(query.runc_root);
    return oci::find_running(query.pid, roots);
  }
  for (auto& state : oci::list_containers(query.runc_root))
    if (oci::is_running(state) && same_directory(state.bundle, query.bundle)) return state;
  return std::nullopt;
}

uint64_t namespace_inode(pid_t pid, const std::string& kind) {
  return kernel::parse_namespace_link(kernel::read_link(proc(pid, "ns/" + kind)), kind);
}

}  // namespace

void look_into(Container& container) {
  container.config = oci::read_config(container.bundle);
  auto created = hook::load_record(hook::default_state_dir, container.id, container.init);
  mountmap::PolicySubject subject{container.id, &*container.config};
  mountmap::PolicyView view{container.policy, subject};
  container.map = mountmap::map_process(container.init, &*container.config,
                                        created ? &*created : nullptr, "/", &view);
  plugins::claim_rows(container.providers, container.map);
}

Container open_container(const ContainerQuery& query) {
  Container container;
  container.policy = query.policy_file.empty()
                         ? mountmap::load_policy()
                         : mountmap::load_policy(query.policy_file, !query.policy_on_trial);
  container.providers = plugins::Providers::with_plugins(container.policy.plugins);
  mountmap::PolicySubject subject;
  mountmap::PolicyView view{container.policy, subject};
  std::optional<oci::RuncState>& state = container.state;
  if (!query.id.empty()) {
    state = oci::find_container(query.id, query.runc_root);
    if (!oci::is_running(*state))
      throw Error("look into container", query.id)
          .because("its process " + std::to_string(state->init_pid) + " has ended")
          .hint("runc delete " + query.id + " removes what is left of it");
  } else {
    state = find_running(query);
  }
  if (state) {
    container.id = state->id;
    container.bundle = state->bundle;
    container.init = state->init_pid;
    container.cgroups = state->cgroup_paths;
    look_into(container);
    return container;
  }
  if (query.pid > 0) {
    container.init = query.pid;
    container.map = mountmap::map_process(query.pid, nullptr, nullptr, "/", &view);
  } else {
    container.bundle = std::filesystem::absolute(query.bundle);
    container.config = oci::read_config(container.bundle);
    subject.config = &*container.config;
    container.map = mountmap::map_config(*container.config);
    mountmap::apply_policy(container.map, container.policy, subject);
    mountmap::examine_config(container.map);
  }
  plugins::claim_rows(container.providers, container.map);
  return container;
}

namespace {

std::map<int, mountmap::HostSource> host_sources(const mountmap::MountMap& map) {
  std::map<int, mountmap::HostSource> sources;
  for (const auto& row : map.rows) {
    if (row.kind != mountmap::MountClass::external || row.source.empty()) continue;
    auto file = mountmap::identify(row.source);
    sources[row.mount.id] = {.path = row.source,
                             .major = row.mount.major,
                             .minor = row.mount.minor,
                             .root = mountmap::standing_root(row.mount),
                             .fstype = row.mount.fstype,
                             .file = file.value_or(mountmap::FileIdentity{})};
  }
  return sources;
}

}  // namespace

engine::DumpPlan build_dump_plan(const Container& container) {
  if (container.init <= 0)
    throw Error("checkpoint bundle", container.bundle).because("no container of it runs");
  engine::DumpPlan plan;
  plan.root = container.init;
  plan.file_locks = true;
  plan.mounts = container.map.table;
  plan.external_mounts = container.map.external_mounts();
  plan.skipped_mounts = container.map.skipped_mounts();
  plan.content_mounts = container.map.content_mounts();
  plan.recreated_mounts = container.map.recreated_mounts();
  if (container.policy.ghost_limit) plan.ghost_limit = *container.policy.ghost_limit;
  plan.host_sources = host_sources(container.map);
  plan.provided_mounts = container.map.provided_mounts();
  auto root = plan.provided_mounts.find(plan.mounts.root().id);
  if (root != plan.provided_mounts.end())
    plan.find_mapped_file = plugins::mapped_files(root->second);
  // The freezer of cgroup v1 where that is in use, else v2's.
  for (const char* controller : {"freezer", ""})
    if (auto cgroup = container.cgroups.find(controller);
        plan.freeze_cgroup.empty() && cgroup != container.cgroups.end())
      plan.freeze_cgroup = cgroup->second;
  // Namespaces that runc joined by path come back by the names that runc gives
  // them in a restore.
  if (container.state) {
    const auto& joined = container.state->joined_namespaces;
    if (joined.contains("NEWNET"))
      plan.external_namespaces[namespace_inode(container.init, "net")] = "extRootNetNS";
    if (joined.contains("NEWPID"))
      plan.external_namespaces[namespace_inode(container.init, "pid")] = "extRootPidNS";
    plan.orphan_pts_master = true;
    plan.empty_netns = true;  // as runc asks: interfaces are the runtime's business
  }
  return plan;
}

}  // namespace stasis::cli
