#include "rpc/mount_plan.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <unistd.h>

#include <map>
#include <utility>

#include "base/text.h"
#include "kernel/fs.h"
#include "kernel/proc_misc.h"
#include "mountmap/cgroup_source.h"
#include "mountmap/mount_keys.h"
#include "oci/config.h"
#include "oci/state.h"
#include "rpc/externals.h"

namespace stasis::rpc {
namespace {

// What follows "mnt[]:", both letters together as well.
void apply_letters(const std::string& letters, mountmap::KeyRequest& request) {
  request.automatic = true;
  for (char letter : letters) {
    if (letter != 's' && letter != 'm')
      throw Error("understand", fmt::format("external mnt[]:{}", letters))
          .because(fmt::format("\"{}\" is none of s (sharing) and m (masters)", letter));
    (letter == 's' ? request.sharing : request.masters) = true;
  }
}

mountmap::DeviceKey device_key(const External& external) {
  size_t slash = external.id.find('/');
  auto major = text::to_int<unsigned>(external.id.substr(0, slash));
  auto minor = slash == external.id.npos ? std::nullopt
                                         : text::to_int<unsigned>(external.id.substr(slash + 1));
  if (!major || !minor || external.value.empty())
    throw Error("understand", fmt::format("external dev[{}]", external.id))
        .because("expected dev[MAJOR/MINOR]:NAME");
  return {*major, *minor, external.value};
}

mountmap::KeyRequest key_request(const Options& opts) {
  mountmap::KeyRequest request;
  request.automatic = opts.auto_ext_mnt();
  request.sharing = opts.ext_sharing();
  request.masters = opts.ext_masters();
  // The option's form has one colon too few for paths with colons.
  for (const ExternalMount& mount : opts.ext_mnt())
    request.keys.push_back({mount.key(), mount.val(), ":"});
  for (External& external : externals(opts, "mnt")) {
    if (external.id.empty())
      apply_letters(external.value, request);
    else
      request.keys.push_back({external.id, external.value, "]:"});
  }
  return request;
}

std::set<std::string> enabled_fs(const Options& opts) {
  std::set<std::string> types;
  for (const std::string& list : opts.enable_fs())
    for (std::string_view type : text::split(list, ','))
      if (!type.empty()) types.emplace(type);
  return types;
}

// What config.json binds, by destination, of a container of runc, where we are
// so lucky as to find it.
std::map<std::string, std::string> configured_sources(pid_t init) {
  std::map<std::string, std::string> sources;
  try {
    if (auto state = oci::find_running(init, oci::runc_roots(getppid())))
      for (const oci::ConfigMount& mount : oci::read_config(state->bundle).mounts)
        if (mount.bind()) sources[mount.destination] = mount.source;
  } catch (const Error&) {
    // Then the mount tables alone have to do.
  }
  return sources;
}

void report_unused(const mountmap::KeyedMounts& keyed, Keys rule, Log& log) {
  for (const auto& [key, why] : keyed.unused) {
    if (rule == Keys::all_used)
      throw Error("find the mount that is meant by", key)
          .because(why)
          .hint("cat /proc/PID/mountinfo shows them all; stasis plan --pid PID explains them");
    log.info("Nothing is meant by {}: {}", key, why);
  }
}

// All that can be known before anything is frozen: the log has it all, the
// caller the first thing that stands in the way.
void report_findings(const mountmap::KeyedMounts& keyed, Log& log) {
  const mountmap::MapFinding* first = nullptr;
  for (const auto& finding : keyed.findings) {
    bool obstacle = finding.severity == mountmap::Severity::obstacle;
    if (obstacle && !first) first = &finding;
    log.write(obstacle ? LogLevel::error : LogLevel::warning,
              fmt::format("{} {}; {}", finding.subject, finding.what, finding.remedy));
  }
  if (first)
    throw Error("checkpoint", first->subject).because("it " + first->what).hint(first->remedy);
}

}  // namespace

void plan_mounts(const Options& opts, Keys rule, Log& log, engine::DumpPlan& plan) {
  plan.mounts = mountmap::MountTable::read(plan.root);
  auto host = mountmap::MountTable::read(getpid());
  auto request = key_request(opts);
  for (const External& external : externals(opts, "dev"))
    request.devices.push_back(device_key(external));
  request.skip.assign(opts.skip_mnt().begin(), opts.skip_mnt().end());
  UniqueFd root = kernel::open(fmt::format("/proc/{}/root", plan.root), O_PATH | O_DIRECTORY);
  auto configured = configured_sources(plan.root);
  mountmap::KeyInput input{.container = plan.mounts,
                           .host = host,
                           .request = request,
                           .resolve =
                               [&](const std::string& path) {
                                 return mountmap::resolve_inside(root.get(), plan.mounts, path);
                               },
                           .configured =
                               [&](const std::string& point) {
                                 auto source = configured.find(point);
                                 return source == configured.end() ? std::string() : source->second;
                               }};
  auto keyed = mountmap::apply_keys(input);
  report_unused(keyed, rule, log);
  report_findings(keyed, log);
  for (const auto& [id, name] : keyed.devices) {
    plan.external_mounts[id] = engine::external_device;
    plan.mount_sources[id] = "dev[" + name + "]";
  }
  for (const auto& [id, value] : keyed.external) plan.external_mounts[id] = value;
  for (int id : keyed.automatic) {
    plan.external_mounts[id] = engine::found_automatically;
    plan.mount_sources[id] = keyed.sources.at(id).path;
    log.info("{} is the host's {}", plan.mounts.find(id)->mountpoint, keyed.sources.at(id).path);
  }
  plan.host_sources = std::move(keyed.sources);
  plan.skipped_mounts = std::move(keyed.skipped);
  plan.enabled_fs = enabled_fs(opts);
}

void plan_mounts(const Options& opts, Keys rule, engine::RestorePlan& plan) {
  mountmap::MountTable host = mountmap::MountTable::read(getpid());
  auto place = kernel::parse_cgroup(kernel::read_file("/proc/self/cgroup"));
  auto request = key_request(opts);
  for (const auto& [key, source, glue] : request.keys)
    plan.external_mounts[key] = mountmap::cgroup_source(host, place, source);
  for (const External& external : externals(opts, "dev"))
    plan.external_devices[external.id] = external.value;
  plan.automatic_mounts = request.automatic;
  plan.enabled_fs = enabled_fs(opts);
  plan.all_keys_used = rule == Keys::all_used;
}

}  // namespace stasis::rpc
