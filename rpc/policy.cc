#include "rpc/policy.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "kernel/fs.h"
#include "oci/state.h"

namespace stasis::rpc {
namespace {

using mountmap::MapFinding;
using mountmap::Severity;

struct Known {
  std::string id;
  std::optional<oci::Config> config;
};

Known find_running(pid_t pid) {
  auto state = oci::find_running(pid, oci::runc_roots(getppid()));
  if (!state) return {};
  return {state->id, oci::read_config(state->bundle)};
}

void refuse(const std::vector<MapFinding>& findings, const engine::DumpPlan& plan, bool known,
            Log& log) {
  for (const MapFinding& finding : findings) {
    bool ours = !finding.rule.empty() || (known && plan.external_mounts.contains(finding.mount));
    if (!ours || finding.severity == Severity::note) continue;
    std::string what = finding.subject + " " + finding.what;
    if (finding.severity == Severity::obstacle)
      throw Error("dump", fmt::format("process {}", plan.root)).because(what).hint(finding.remedy);
    log.warn("{}; {}", what, finding.remedy);
  }
}

// The root of a request of runc's is STATE/ID/criu-root.
std::string id_from(const std::string& root) {
  constexpr std::string_view tail = "/criu-root";
  if (!root.ends_with(tail)) return {};
  std::string_view directory(root.data(), root.size() - tail.size());
  return std::string(directory.substr(directory.rfind('/') + 1));
}

// runc works in the bundle, and so do we then; that it is the right one shows
// by its root directory being the one that we were given.
std::optional<oci::Config> config_of(const std::string& root) {
  try {
    oci::Config config = oci::read_config(kernel::read_link("/proc/self/cwd"));
    auto given = mountmap::identify(root), configured = mountmap::identify(config.root_path);
    if (given && configured && given->same_file(*configured)) return config;
    return std::nullopt;
  } catch (const Error&) {
    // Not runc, or not in its bundle: rules that ask for annotations don't match.
    return std::nullopt;
  }
}

// Decides on each external mount of an image.
class Chooser {
 public:
  Chooser(const engine::RestorePlan& plan, mountmap::Policy policy)
      : policy_(std::move(policy)),
        host_(mountmap::MountTable::read(getpid())),
        known_{id_from(plan.root), config_of(plan.root)} {}

  std::string choose(const engine::ExternalMount& mount) const {
    mountmap::PolicySubject subject{known_.id, known_.config ? &*known_.config : nullptr};
    return decided_source(policy_, subject, host_, mount);
  }

 private:
  mountmap::Policy policy_;
  mountmap::MountTable host_;
  Known known_;
};

}  // namespace

std::string decided_source(const mountmap::Policy& policy, const mountmap::PolicySubject& subject,
                           const mountmap::MountTable& host, const engine::ExternalMount& mount) {
  bool confines = mount.key == "/dev/null" || mount.type == "devtmpfs" || mount.type == "cgroup";
  if (confines) return mount.source;
  mountmap::MountFacts facts{mount.mountpoint, "", mount.type};
  if (!mount.source.empty()) {
    facts.source = oci::clean_path(mount.source);
    facts.type = host.at(facts.source)->fstype;
  }
  const mountmap::PolicyRule* rule = mountmap::decide(policy, facts, subject);
  if (!rule) return mount.source;
  if (rule->action == mountmap::Action::refuse)
    throw Error("restore the external mount", mount.mountpoint)
        .because("it is refused by the policy" + (rule->why.empty() ? "" : ": " + rule->why))
        .hint("change the rule at " + rule->place);
  if (rule->action != mountmap::Action::remap) return mount.source;
  return mountmap::remapped_path(*rule, facts, subject);
}

void apply_policy(const Options& opts, engine::DumpPlan& plan, Log& log) {
  mountmap::Policy policy = mountmap::load_policy();
  if (policy.ghost_limit && !opts.has_ghost_limit()) plan.ghost_limit = *policy.ghost_limit;
  Known known = find_running(plan.root);
  const oci::Config* config = known.config ? &*known.config : nullptr;
  mountmap::PolicySubject subject{known.id, config};
  mountmap::PolicyView view{policy, subject};
  mountmap::MountMap map = mountmap::map_process(plan.root, config, nullptr, "/", &view);
  plan.content_mounts = map.content_mounts();
  plan.recreated_mounts = map.recreated_mounts();
  for (const auto& row : map.rows) {
    if (row.rule.empty()) continue;
    using mountmap::Action;
    if (row.action == Action::content || row.action == Action::recreate ||
        row.action == Action::skip)
      plan.external_mounts.erase(row.mount.id);
    if (row.kind == mountmap::MountClass::skipped) plan.skipped_mounts.insert(row.mount.id);
    if (!row.remapped.empty()) plan.external_mounts.emplace(row.mount.id, row.key);
    log.debug("{}: {}", row.mount.mountpoint, row.reason);
  }
  refuse(map.findings, plan, known.config.has_value(), log);
}

void apply_policy(engine::RestorePlan& plan, Log& log) {
  mountmap::Policy policy = mountmap::load_policy();
  if (policy.rules.size() == mountmap::builtin_policy().rules.size()) return;  // these keep all
  auto chooser = std::make_shared<Chooser>(plan, std::move(policy));
  plan.choose_source = [chooser, &log](const engine::ExternalMount& mount) {
    std::string source = chooser->choose(mount);
    if (source != mount.source)
      log.info("By the policy {} is bound at {}", source, mount.mountpoint);
    return source;
  };
}

}  // namespace stasis::rpc
