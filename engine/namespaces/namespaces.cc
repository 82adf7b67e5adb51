#include "engine/namespaces/namespaces.h"

#include <fmt/core.h>
#include <net/if.h>
#include <sched.h>
#include <sys/syscall.h>

#include <exception>

#include "base/text.h"
#include "engine/namespaces/act_as.h"
#include "engine/namespaces/firewall.h"
#include "engine/namespaces/ipc.h"
#include "engine/namespaces/links.h"
#include "engine/namespaces/net.h"
#include "engine/namespaces/net_sysctls.h"
#include "engine/namespaces/routes.h"
#include "engine/namespaces/sysv.h"
#include "engine/namespaces/timens.h"
#include "engine/namespaces/userns.h"
#include "engine/namespaces/uts.h"
#include "kernel/fs.h"
#include "kernel/proc_status.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

namespace stasis::engine::namespaces {
namespace {

// What is read from inside; the rest is seen from outside.
constexpr uint64_t inside = CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET;

std::string stem(const char* name, uint32_t id) { return fmt::format("{}-{}", name, id); }

// The key of a namespace that the container has, but that somebody else made.
const std::string* external_key(const DumpPlan& plan, const NsIds& ids, uint64_t flag) {
  if (!ids.own(flag)) return nullptr;
  auto found = plan.external_namespaces.find(ids.inode(flag));
  return found == plan.external_namespaces.end() ? nullptr : &found->second;
}

void look_at_user_namespace(const DumpPlan& plan, const NsIds& ids,
                            std::vector<Finding>& findings) {
  const std::string proc = fmt::format("/proc/{}/", plan.root);
  const std::string subject = "the container's user namespace";
  const userns::IdMap map = userns::IdMap::of(plan.root);
  std::string trouble;
  if (const auto& maps = map.maps()) trouble = userns::trouble_with(*maps);
  if (!trouble.empty())
    findings.push_back({subject, trouble, "map them in linux.uidMappings and gidMappings"});
  if (text::trim(kernel::read_file(proc + "setgroups")) == "deny")
    findings.push_back({subject, "denies setgroups(), so that groups couldn't be restored",
                        "let a privileged runtime write its gid map"});
  // A restore makes them all within it.
  for (const Kind& kind : kinds) {
    if (!ids.own(kind.flag) || kind.flag == CLONE_NEWUSER || external_key(plan, ids, kind.flag))
      continue;
    if (userns::owner_of(proc + "ns/" + std::string(kind.name)) == ids.inode(CLONE_NEWUSER))
      continue;
    findings.push_back({fmt::format("the container's {} namespace", kind.words),
                        "belongs to another user namespace than its own",
                        "let the runtime make both, or declare it external"});
  }
}

// What no look inside is needed for.
std::vector<Finding> from_outside(const DumpPlan& plan, const NsIds& ids) {
  std::vector<Finding> findings;
  if (ids.own(CLONE_NEWUSER)) look_at_user_namespace(plan, ids, findings);
  if (ids.own(CLONE_NEWPID) && !external_key(plan, ids, CLONE_NEWPID)) {
    auto status =
        kernel::parse_status(kernel::read_file(fmt::format("/proc/{}/status", plan.root)));
    if (status.ns_pid.empty() || status.ns_pid.back() != 1)
      findings.push_back({fmt::format("process {}", plan.root),
                          "isn't the init of its pid namespace",
                          "checkpoint from the namespace's PID 1 on, or declare it external"});
  }
  return findings;
}

// A mount of mqueue comes back as one of the container's own namespace.
void refuse_other_queues(const DumpPlan& plan, const UniqueFd& own) {
  if (!own.valid()) return;
  const struct statx stat = kernel::stat_fd(own.get());
  for (const mountmap::Mount& mount : plan.mounts.mounts()) {
    bool same = mount.major == stat.stx_dev_major && mount.minor == stat.stx_dev_minor;
    if (mount.fstype != "mqueue" || same || plan.external_mounts.count(mount.id) ||
        plan.skipped_mounts.count(mount.id))
      continue;
    throw Error("checkpoint the mount", mount.mountpoint + " (mqueue)")
        .because("it shows the queues of another ipc namespace")
        .hint("mount mqueue after the container's ipc namespace was made");
  }
}

void restore_network(const image::Checkpoint& checkpoint, const RestorePlan& plan) {
  bool found = false;
  if (checkpoint.netns) net::restore_sysctls(*checkpoint.netns);
  for (const image::NetDeviceEntry& device : checkpoint.netdevs) {
    if (device.type() != image::LOOPBACK) {
      if (plan.empty_netns) continue;
      throw Error("restore", "network interface " + device.name())
          .because("only loopback is restored of CRIU's images; other links are the runtime's");
    }
    net::restore_loopback(device);
    net::restore_sysctls(device);
    found = true;
  }
  // CRIU writes no devices when the runtime cares for them; the runtime doesn't
  // care for loopback at a restore, and had brought it up at the start.
  if (!found) net::bring_loopback_up();
  if (checkpoint.netns) net::restore_settings(*checkpoint.netns);
  net::restore_routes(checkpoint, net::link_indexes({}));
  net::restore_rules(checkpoint);
}

net::Links dump_links(const DumpPlan& plan, const net::Sysctls& sysctls, image::ImageWriter& writer,
                      Log& log) {
  image::StasisEntry more;
  for (image::LinkEntry& link : net::read_links(plan.empty_netns, log)) {
    sysctls.read(link);
    *more.add_links() = std::move(link);
  }
  if (more.links_size() > 0) writer.append("stasis", more);
  return more.links();
}

}  // namespace

void in_namespaces(int pidfd, uint64_t flags, const std::function<void()>& action) {
  std::vector<std::pair<uint64_t, UniqueFd>> home;
  for (const Kind& kind : kinds)
    if (flags & kind.flag)
      home.emplace_back(kind.flag,
                        kernel::open(fmt::format("/proc/thread-self/ns/{}", kind.name), O_RDONLY));
  kernel::must(kernel::call(SYS_setns, pidfd, flags), "enter", "the container's namespaces");
  std::exception_ptr failure;
  try {
    action();
  } catch (...) {
    failure = std::current_exception();
  }
  for (const auto& [flag, fd] : home) {
    long back = kernel::call(SYS_setns, fd.get(), flag);
    if (back < 0) back = kernel::call(SYS_setns, fd.get(), flag);
    kernel::must(back, "return to", "our own namespaces");
  }
  if (failure) std::rethrow_exception(failure);
}

std::vector<Finding> obstacles(const DumpPlan& plan, const std::vector<pid_t>& pids) {
  NsIds ids(plan.root);
  if (ids.own(CLONE_NEWNS))
    for (const NestedMounts& nested : plan.nested) ids.admit_mounts(nested.inode);
  std::vector<Finding> findings = from_outside(plan, ids);
  for (pid_t pid : pids) {
    try {
      image::TaskKobjIdsEntry ignored;
      ids.fill(pid, ignored);
    } catch (const Error& error) {
      if (error.code() == ENOENT || error.code() == ESRCH) continue;  // ended meanwhile
      findings.push_back({error.subject(), error.cause(), error.remedy()});
    }
  }
  if (ids.own(CLONE_NEWNET) && !external_key(plan, ids, CLONE_NEWNET)) {
    UniqueFd pidfd = kernel::pidfd_open(plan.root);
    in_namespaces(pidfd.get(), CLONE_NEWNET, [&] {
      for (const std::string& rules : net::firewall_rules())
        findings.push_back({"the container's network namespace", "has " + rules,
                            "remove it, or let the runtime declare the namespace external"});
      if (plan.empty_netns) return;
      for (Finding& finding : net::link_obstacles()) findings.push_back(std::move(finding));
    });
  }
  const std::string ipc = "the container's ipc namespace";
  if (ids.own(CLONE_NEWIPC)) {
    UniqueFd pidfd = kernel::pidfd_open(plan.root);
    in_namespaces(pidfd.get(), CLONE_NEWIPC, [&] {
      for (const std::string& object : sysv::obstacles())
        findings.push_back({ipc, "holds " + object, "stop the program's use of it"});
    });
  }
  return findings;
}

std::vector<sysv::Semaphores> semaphores(const NsIds& ids, int root_pidfd) {
  std::vector<sysv::Semaphores> sets;
  if (ids.own(CLONE_NEWIPC))
    in_namespaces(root_pidfd, CLONE_NEWIPC, [&] { sets = sysv::semaphore_sets(); });
  return sets;
}

std::unique_ptr<net::Sysctls> open_sysctls(const DumpPlan& plan, const NsIds& ids, int root_pidfd) {
  std::unique_ptr<net::Sysctls> opened;
  if (ids.own(CLONE_NEWNET) && !external_key(plan, ids, CLONE_NEWNET))
    in_namespaces(root_pidfd, CLONE_NEWNET, [&] { opened = std::make_unique<net::Sysctls>(); });
  return opened;
}

void dump(const DumpPlan& plan, const NsIds& ids, const net::Sysctls* sysctls, int root_pidfd,
          SysvUse& sysv, image::ImageWriter& writer, Log& log) {
  // Looked at before, but without the tasks standing still.
  for (const Finding& finding : from_outside(plan, ids))
    throw Error("dump", finding.subject).because(finding.what).hint(finding.remedy);
  // With a time namespace shared with the engine the clocks still matter: they
  // go on where they stood on another boot. CRIU keeps them under id 0.
  const uint32_t time_id = ids.own(CLONE_NEWTIME) ? ids.id(CLONE_NEWTIME) : 0;
  writer.append(stem("timens", time_id), timens::read(plan.root));

  if (const std::string* key = external_key(plan, ids, CLONE_NEWPID)) {
    image::PidnsEntry entry;
    entry.set_ext_key(*key);
    writer.append(stem("pidns", ids.id(CLONE_NEWPID)), entry);
  }
  const uint32_t net_id = ids.id(CLONE_NEWNET);
  uint64_t enter = ids.own() & inside;
  if (const std::string* key = external_key(plan, ids, CLONE_NEWNET)) {
    image::NetnsEntry entry;
    entry.set_ext_key(*key);
    writer.append(stem("netns", net_id), entry);
    enter &= ~uint64_t{CLONE_NEWNET};
  }
  if (!(enter & CLONE_NEWIPC) && !sysv.attached.empty())
    throw Error("dump", fmt::format("shared memory segment {}", sysv.attached.begin()->first))
        .because("it belongs to the host's ipc namespace")
        .hint("give the container an ipc namespace of its own in config.json");
  if (enter == 0) return;
  const userns::IdMap id_map = userns::IdMap::of(plan.root);
  in_namespaces(root_pidfd, enter, [&] {
    if (enter & CLONE_NEWUTS) writer.append(stem("utsns", ids.id(CLONE_NEWUTS)), uts::read());
    if (enter & CLONE_NEWIPC) {
      const uint32_t id = ids.id(CLONE_NEWIPC);
      writer.append(stem("ipcns-var", id), ipc::read());
      sysv::dump({id_map, writer, id, sysv.attached, sysv.store_memory, sysv.queues});
      refuse_other_queues(plan, sysv.queues.mount);
    }
    if (enter & CLONE_NEWNET) {
      image::NetDeviceEntry loopback = net::read_loopback();
      sysctls->read(loopback);
      net::Links links = dump_links(plan, *sysctls, writer, log);
      net::dump_routes((loopback.flags() & IFF_UP) != 0, net::link_indexes(links), net_id, writer);
      writer.append(stem("netdev", net_id), loopback);
      image::NetnsEntry settings = net::read_settings();
      sysctls->read(settings);
      writer.append(stem("netns", net_id), settings);
    }
  });
  log.debug("Namespaces written down: {:#x}", ids.own());
}

Layout layout(const image::Checkpoint& checkpoint, const RestorePlan& plan) {
  Layout layout;
  layout.clone_flags = checkpoint.namespaces() & ~uint64_t{CLONE_NEWTIME | CLONE_NEWCGROUP};
  if ((layout.clone_flags & CLONE_NEWUSER) && !checkpoint.userns)
    throw Error("restore", "the user namespace").because("the image holds no id maps of it");
  auto join = [&](uint64_t flag, const std::string& key, const char* kind) {
    auto fd = plan.inherited_fds.find(key);
    if (fd == plan.inherited_fds.end())
      throw Error("restore", fmt::format("the {} namespace", kind))
          .because(fmt::format("it is external, and no descriptor came for \"{}\"", key))
          .hint("hand it over as inherit_fd, as runc does for a namespace with a path");
    layout.joins.push_back({fd->second, flag});
    layout.clone_flags &= ~flag;
  };
  if (checkpoint.netns && checkpoint.netns->has_ext_key())
    join(CLONE_NEWNET, checkpoint.netns->ext_key(), "network");
  if (checkpoint.pidns && checkpoint.pidns->has_ext_key())
    join(CLONE_NEWPID, checkpoint.pidns->ext_key(), "pid");
  return layout;
}

void restore(const image::Checkpoint& checkpoint, const RestorePlan& plan, pid_t root) {
  const uint64_t made = layout(checkpoint, plan).clone_flags;
  if ((made & CLONE_NEWUSER) && checkpoint.userns) userns::write_maps(*checkpoint.userns, root);
  if ((made & inside) == 0) return;
  UniqueFd pidfd = kernel::pidfd_open(root);
  in_namespaces(pidfd.get(), made & inside, [&] {
    if ((made & CLONE_NEWUTS) && checkpoint.uts) uts::restore(*checkpoint.uts);
    if ((made & CLONE_NEWIPC) && checkpoint.ipc) {
      {
        ActAsRoot owner{userns::IdMap(checkpoint.userns)};
        ipc::restore(*checkpoint.ipc);
      }
      if (sysv::has_objects(checkpoint)) sysv::make(checkpoint, *checkpoint.ipc, plan.workers);
    }
    if (made & CLONE_NEWNET) restore_network(checkpoint, plan);
  });
}

void restore_links(const image::Checkpoint& checkpoint, const RestorePlan& plan, pid_t root,
                   Log& log) {
  if (!(layout(checkpoint, plan).clone_flags & CLONE_NEWNET) || !checkpoint.more ||
      checkpoint.more->links().empty())
    return;
  UniqueFd pidfd = kernel::pidfd_open(root);
  in_namespaces(pidfd.get(), CLONE_NEWNET, [&] {
    net::restore_links(checkpoint.more->links(), log);
    net::restore_routes(checkpoint, net::link_indexes(checkpoint.more->links()));
  });
}

image::IpcVarEntry fill_ipc(const image::Checkpoint& checkpoint, pid_t init, unsigned workers) {
  if (!NsIds(init).own(CLONE_NEWIPC))
    throw Error("restore", "the ipc namespace")
        .because(
            "the checkpoint holds System V objects, and the container has the host's namespace")
        .hint("give it one in config.json");
  image::IpcVarEntry limits;
  UniqueFd pidfd = kernel::pidfd_open(init);
  in_namespaces(pidfd.get(), CLONE_NEWIPC, [&] {
    limits = ipc::read();
    sysv::make(checkpoint, limits, workers);
  });
  return limits;
}

void finish_ipc(const image::Checkpoint& checkpoint, const image::IpcVarEntry& limits, pid_t root) {
  if (!sysv::has_objects(checkpoint)) return;
  UniqueFd pidfd = kernel::pidfd_open(root);
  in_namespaces(pidfd.get(), CLONE_NEWIPC, [&] { sysv::finish(checkpoint, limits); });
}

}  // namespace stasis::engine::namespaces
