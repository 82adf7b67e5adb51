#include "cli/image_view.h"

#include <fmt/core.h>
#include <sched.h>
#include <sys/mount.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <utility>

#include "cli/open_file.h"
#include "engine/mounts/fs_types.h"
#include "engine/mounts/tree.h"
#include "mountmap/map_json.h"
#include "plugins/providers.h"

namespace stasis::cli {
namespace {

using image::Checkpoint;
using image::MntEntry;
using image::TaskImage;
using mountmap::MountClass;
using Json = nlohmann::ordered_json;

// --- namespaces ---

struct Kind {
  const char* name;
  uint64_t flag;
  uint32_t (image::TaskKobjIdsEntry::*id)() const;
};
constexpr std::array kinds{
    Kind{"user", CLONE_NEWUSER, &image::TaskKobjIdsEntry::user_ns_id},
    Kind{"mnt", CLONE_NEWNS, &image::TaskKobjIdsEntry::mnt_ns_id},
    Kind{"pid", CLONE_NEWPID, &image::TaskKobjIdsEntry::pid_ns_id},
    Kind{"net", CLONE_NEWNET, &image::TaskKobjIdsEntry::net_ns_id},
    Kind{"ipc", CLONE_NEWIPC, &image::TaskKobjIdsEntry::ipc_ns_id},
    Kind{"uts", CLONE_NEWUTS, &image::TaskKobjIdsEntry::uts_ns_id},
    Kind{"time", CLONE_NEWTIME, &image::TaskKobjIdsEntry::time_ns_id},
    Kind{"cgroup", CLONE_NEWCGROUP, &image::TaskKobjIdsEntry::cgroup_ns_id},
};

// The key of a namespace that a restore is given from outside.
std::string external_key(const Checkpoint& image, uint64_t flag) {
  if (flag == CLONE_NEWNET && image.netns) return image.netns->ext_key();
  if (flag == CLONE_NEWPID && image.pidns) return image.pidns->ext_key();
  return {};
}

std::string devices(const Checkpoint& image) {
  std::string names;
  for (const image::NetDeviceEntry& device : image.netdevs)
    names += (names.empty() ? "" : ", ") + device.name();
  if (image.more)
    for (const image::LinkEntry& link : image.more->links())
      names += fmt::format("{}{} ({})", names.empty() ? "" : ", ", link.name(), link.kind());
  return names;
}

std::string user_maps(const image::UsernsEntry& user) {
  auto text = [](const auto& extents) {
    std::string result;
    for (const image::UidGidExtent& extent : extents)
      result += fmt::format(" {}={}+{}", extent.first(), extent.lower_first(), extent.count());
    return result;
  };
  return fmt::format("uids{}, gids{}", text(user.uid_map()), text(user.gid_map()));
}

std::string cgroup_path(const Checkpoint& image) {
  if (!image.cgroup || image.tasks.empty()) return {};
  uint32_t wanted = image.root().threads.front().thread_core().cg_set();
  for (const image::CgSetEntry& set : image.cgroup->sets())
    if (set.id() == wanted && set.ctls_size() > 0) return set.ctls(0).path();
  return {};
}

std::string detail(const Checkpoint& image, uint64_t flag) {
  switch (flag) {
    case CLONE_NEWUTS:
      return image.uts ? "hostname " + image.uts->nodename() : "";
    case CLONE_NEWNET:
      return devices(image);
    case CLONE_NEWIPC:
      return image.ipc
                 ? fmt::format("{} queues, {} semaphore sets, {} shared segments",
                               image.queues.size(), image.semaphores.size(), image.segments.size())
                 : "";
    case CLONE_NEWUSER:
      return image.userns ? user_maps(*image.userns) : "";
    case CLONE_NEWTIME:
      return image.timens
                 ? fmt::format("monotonic clock at {} s", image.timens->monotonic().tv_sec())
                 : "";
    case CLONE_NEWNS: {
      auto mounts = image.mounts.find(image.root().ids.mnt_ns_id());
      return mounts == image.mounts.end() ? "" : fmt::format("{} mounts", mounts->second.size());
    }
    case CLONE_NEWCGROUP:
      return cgroup_path(image);
    default:
      return {};
  }
}

Json namespaces(const Checkpoint& image) {
  Json list = Json::array();
  if (image.tasks.empty()) return list;
  uint64_t own = image.namespaces();
  for (const Kind& kind : kinds) {
    std::set<uint32_t> ids;
    for (const TaskImage& task : image.tasks)
      if (!task.dead()) ids.insert((task.ids.*kind.id)());
    std::string key = external_key(image, kind.flag);
    Json entry{{"kind", kind.name},
               {"of", !key.empty()      ? "given at the restore"
                      : own & kind.flag ? "container"
                                        : "host"}};
    if (!key.empty()) entry["key"] = key;
    if (std::string text = detail(image, kind.flag); !text.empty()) entry["detail"] = text;
    if (ids.size() > 1) entry["count"] = ids.size();  // tasks have others of their own
    list.push_back(std::move(entry));
  }
  return list;
}

// --- mounts ---

std::string flags_text(uint32_t flags) {
  constexpr std::array<std::pair<uint32_t, const char*>, 8> names{{
      {MS_NOSUID, "nosuid"},
      {MS_NODEV, "nodev"},
      {MS_NOEXEC, "noexec"},
      {MS_NOATIME, "noatime"},
      {MS_NODIRATIME, "nodiratime"},
      {MS_RELATIME, "relatime"},
      {MS_SYNCHRONOUS, "sync"},
      {256 /* MS_NOSYMFOLLOW */, "nosymfollow"},
  }};
  std::string text = flags & MS_RDONLY ? "ro" : "rw";
  for (const auto& [bit, name] : names)
    if (flags & bit) text += std::string(",") + name;
  return text;
}

MountClass class_of(const MntEntry& entry, bool is_root) {
  if (is_root) return MountClass::root;
  if (entry.with_plugin()) return MountClass::provided;
  return engine::mounts::external_key(entry).empty() ? MountClass::own : MountClass::external;
}

// Who makes the mount, or could make it, and from what.
void add_provider(const Checkpoint& image, const MntEntry& entry, Json& json) {
  if (!image.more) return;
  for (const auto& provided : image.more->provided()) {
    if (provided.mnt_id() != entry.mnt_id()) continue;
    json["provider"] = provided.provider();
    json["details"] = plugins::Providers().explain({provided.provider(), provided.description()});
  }
}

Json mount_json(const Checkpoint& image, const MntEntry& entry, bool is_root) {
  MountClass kind = class_of(entry, is_root);
  Json json{{"id", entry.mnt_id()},
            {"parent", entry.parent_mnt_id()},
            {"mountpoint", entry.mountpoint()},
            {"class", name_of(kind)},
            {"device", fmt::format("{}:{}", entry.root_dev() >> 20, entry.root_dev() & 0xfffff)},
            {"root", entry.root()}};
  if (kind == MountClass::external) json["key"] = engine::mounts::external_key(entry);
  if (std::string type = engine::mounts::type_name(entry); !type.empty()) json["type"] = type;
  add_provider(image, entry, json);
  json["source"] = entry.source();
  json["flags"] = flags_text(entry.flags());
  if (entry.has_sb_flags()) json["superblock_flags"] = flags_text(entry.sb_flags());
  json["options"] = entry.options();
  if (entry.shared_id() != 0) json["shared"] = entry.shared_id();
  if (entry.master_id() != 0) json["master"] = entry.master_id();
  if (entry.flags() & MS_UNBINDABLE) json["unbindable"] = true;
  if (entry.deleted()) json["deleted"] = true;
  return json;
}

Json mount_namespaces(const Checkpoint& image) {
  std::map<uint32_t, std::vector<uint32_t>> members;
  for (const TaskImage& task : image.tasks)
    members[task.ids.mnt_ns_id()].push_back(task.tree.pid());
  Json list = Json::array();
  for (const TaskImage& task : image.tasks) {  // in the order of their first tasks
    auto found = image.mounts.find(task.ids.mnt_ns_id());
    auto pids = members.find(task.ids.mnt_ns_id());
    if (found == image.mounts.end() || pids == members.end()) continue;
    std::set<uint32_t> ids;
    for (const MntEntry& entry : found->second) ids.insert(entry.mnt_id());
    Json mounts = Json::array();
    for (const MntEntry* entry : in_order(found->second))
      mounts.push_back(mount_json(image, *entry, !ids.contains(entry->parent_mnt_id())));
    list.push_back({{"id", found->first}, {"tasks", pids->second}, {"mounts", std::move(mounts)}});
    members.erase(pids);
  }
  return list;
}

// --- tasks, memory, files ---

uint64_t bytes_of(const std::vector<image::PagemapEntry>& entries) {
  uint64_t pages = 0;
  for (const image::PagemapEntry& entry : entries)
    if (image::is_present(entry)) pages += image::page_count(entry);
  return pages * image::page_size;
}

const char* state_of(const TaskImage& task) {
  if (task.dead()) return "dead";
  return task.stopped() ? "stopped" : "alive";
}

std::string path_of(const Checkpoint& image, uint32_t file) {
  auto found = image.files.find(file);
  return found == image.files.end() ? std::string() : found->second.reg().name();
}

std::string comm_of(const image::CoreEntry& core) {
  return core.has_tc() ? core.tc().comm() : core.thread_core().comm();
}

Json tasks(const Checkpoint& image) {
  Json list = Json::array();
  for (const TaskImage& task : image.tasks) {
    Json threads = Json::array();
    for (size_t i = 0; i < task.threads.size(); ++i)
      threads.push_back(
          {{"tid", task.tree.threads(static_cast<int>(i))}, {"comm", comm_of(task.threads[i])}});
    list.push_back({{"pid", task.tree.pid()},
                    {"parent", task.tree.ppid()},
                    {"group", task.tree.pgid()},
                    {"session", task.tree.sid()},
                    {"state", state_of(task)},
                    {"comm", comm_of(task.threads.front())},
                    {"exe", path_of(image, task.mm.exe_file_id())},
                    {"cwd", path_of(image, task.fs.cwd_id())},
                    {"memory_bytes", bytes_of(task.pagemap)},
                    {"threads", std::move(threads)}});
  }
  return list;
}

Json memory(const Checkpoint& image) {
  uint64_t own = 0, shared = 0;
  for (const TaskImage& task : image.tasks) own += bytes_of(task.pagemap);
  for (const auto& [id, pagemap] : image.shmem) shared += bytes_of(pagemap.entries);
  return {{"private_bytes", own}, {"shared_bytes", shared}};
}

// Tasks may share one table of descriptors.
Json files(const Checkpoint& image) {
  std::map<uint32_t, std::vector<uint32_t>> owners;
  for (const TaskImage& task : image.tasks) owners[task.ids.files_id()].push_back(task.tree.pid());
  Json list = Json::array();
  for (const TaskImage& task : image.tasks) {
    auto pids = owners.find(task.ids.files_id());
    if (pids == owners.end()) continue;
    for (const image::FdinfoEntry& fd : task.fds) {
      auto file = image.files.find(fd.id());
      OpenFile what =
          file == image.files.end() ? OpenFile{"unknown", "", ""} : describe(image, file->second);
      list.push_back({{"tasks", pids->second},
                      {"fd", fd.fd()},
                      {"kind", what.kind},
                      {"access", what.access},
                      {"name", what.name}});
    }
    owners.erase(pids);
  }
  return list;
}

}  // namespace

std::vector<const MntEntry*> in_order(const std::vector<MntEntry>& mounts) {
  std::vector<const MntEntry*> result;
  for (auto entry = mounts.rbegin(); entry != mounts.rend(); ++entry) result.push_back(&*entry);
  return result;
}

Json view(const Checkpoint& image) {
  return {{"namespaces", namespaces(image)},
          {"mount_namespaces", mount_namespaces(image)},
          {"tasks", tasks(image)},
          {"memory", memory(image)},
          {"files", files(image)}};
}

}  // namespace stasis::cli
