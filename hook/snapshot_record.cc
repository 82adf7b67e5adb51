#include "hook/snapshot_record.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/text.h"
#include "engine/image/format.h"
#include "kernel/fs.h"
#include "mountmap/mount_table.h"
#include "mountmap/paths.h"
#include "oci/config.h"

namespace stasis::hook {

namespace {

using nlohmann::json;

// /var/lib/.../ID/userdata/hosts and BUNDLE/data are the same for every container.
std::string common_source(const std::string& source, const std::string& bundle,
                          const std::string& id) {
  std::string path = oci::clean_path(source.starts_with('/') ? source : bundle + "/" + source);
  if (mountmap::inside(path, bundle)) path = "BUNDLE" + path.substr(bundle.size());
  std::string common;
  for (auto part : text::split(path, '/')) {
    if (!common.empty() || path.starts_with('/')) common += '/';
    common += part == id ? "ID" : part;
  }
  return common;
}

bool is_bind(const json& mount) {
  if (mount.value("type", "") == "bind") return true;
  for (const json& option : mount.value("options", json::array()))
    if (option == "bind" || option == "rbind") return true;
  return false;
}

void forget_own(json& config, const std::string& bundle, const std::string& id) {
  for (const char* key : {"hostname", "domainname", "hooks", "root", "ociVersion"})
    config.erase(key);
  if (auto linux = config.find("linux"); linux != config.end()) {
    linux->erase("cgroupsPath");
    linux->erase("mountLabel");
    if (linux->contains("namespaces"))
      for (json& ns : (*linux)["namespaces"]) ns.erase("path");
  }
  if (auto process = config.find("process"); process != config.end()) {
    process->erase("selinuxLabel");
    process->erase("consoleSize");
    if (process->contains("env"))
      std::erase_if((*process)["env"].get_ref<json::array_t&>(), [](const json& variable) {
        return variable.get<std::string>().starts_with("HOSTNAME=");
      });
  }
  if (config.contains("mounts"))
    for (json& mount : config["mounts"])
      if (is_bind(mount) && mount.contains("source"))
        mount["source"] = common_source(mount["source"], bundle, id);
  if (auto notes = config.find("annotations"); notes != config.end())
    for (auto note = notes->begin(); note != notes->end();)
      note = note.key().starts_with("dev.stasis.") ? std::next(note) : notes->erase(note);
}

// Lists in which runtimes' order changes from run to run, and means nothing but
// among entries of the same name.
void sort_lists(json& config) {
  auto sort = [](json& list, const auto& name) {
    if (list.is_array())
      std::stable_sort(list.begin(), list.end(),
                       [&](const json& a, const json& b) { return name(a) < name(b); });
  };
  if (config.contains("mounts"))
    sort(config["mounts"], [](const json& mount) { return mount.value("destination", ""); });
  if (!config.contains("process")) return;
  json& process = config["process"];
  if (process.contains("env"))
    sort(process["env"], [](const json& variable) {
      std::string text = variable;
      return text.substr(0, text.find('='));
    });
  if (process.contains("rlimits"))
    sort(process["rlimits"], [](const json& limit) { return limit.value("type", ""); });
}

UniqueFd root_of(pid_t init) {
  return kernel::open(fmt::format("/proc/{}/root", init), O_PATH | O_DIRECTORY);
}

// -1: there is none.
UniqueFd find(int root, const std::string& path) {
  long fd = kernel::try_open_in(root, path, O_PATH, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
  return UniqueFd(fd < 0 ? -1 : static_cast<int>(fd));
}

RecordedFile look(const std::string& path, const struct statx& stat) {
  return {path, stat.stx_size, stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec};
}

// Files in a tmpfs of the container come with the checkpoint.
std::set<uint32_t> own_mounts(const image::Checkpoint& checkpoint) {
  std::set<uint32_t> own;
  for (const auto& [ns, mounts] : checkpoint.mounts)
    for (const image::MntEntry& mount : mounts)
      if (mount.fstype() == image::TMPFS && !mount.has_ext_key() && mount.mountpoint() != "/")
        own.insert(mount.mnt_id());
  return own;
}

// Programs and libraries: mapped, and not to be written to.
std::set<uint32_t> mapped_files(const image::Checkpoint& checkpoint) {
  std::set<uint32_t> ids;
  for (const image::TaskImage& task : checkpoint.tasks) {
    if (task.dead()) continue;
    ids.insert(task.mm.exe_file_id());
    for (const image::VmaEntry& vma : task.mm.vmas())
      if (vma.status() & image::vma_file_private) ids.insert(static_cast<uint32_t>(vma.shmid()));
  }
  return ids;
}

// An argument may be a script, which nobody has open or mapped.
void add_arguments(const json& config, int root, std::map<std::string, RecordedFile>& files) {
  auto process = config.find("process");
  if (process == config.end() || !process->contains("args")) return;
  std::string cwd = process->value("cwd", "/");
  for (const json& argument : (*process)["args"]) {
    std::string path = argument.get<std::string>();
    if (path.empty() || path.size() > 4000 || path.find('\0') != path.npos) continue;
    if (!path.starts_with('/')) path = oci::clean_path(cwd + "/" + path);
    UniqueFd fd = find(root, path);
    if (!fd) continue;
    struct statx stat = kernel::stat_fd(fd.get());
    // What the kernel makes up, as below /proc, has no size, and a date of its own.
    if (S_ISREG(stat.stx_mode) && stat.stx_size > 0) files[path] = look(path, stat);
  }
}

}  // namespace

json essence(std::string_view config_text, const std::string& bundle, const std::string& id) {
  json config = json::parse(config_text);
  forget_own(config, oci::clean_path(bundle), id);
  sort_lists(config);
  return config;
}

std::string difference(const json& then, const json& now) {
  json patch = json::diff(then, now);
  return patch.empty() ? "" : patch.front().at("path").get<std::string>();
}

std::string root_image(pid_t init) {
  constexpr std::string_view key = "lowerdir=";
  const auto table = mountmap::MountTable::read(init);
  const mountmap::Mount* root = table.at("/");
  if (!root || root->fstype != "overlay") return "";
  for (auto option : text::split(root->sb_options, ','))
    if (option.starts_with(key)) return std::string(option.substr(key.size()));
  return "";
}

std::vector<RecordedFile> recorded_files(const image::Checkpoint& checkpoint, const json& config,
                                         pid_t init) {
  UniqueFd root = root_of(init);
  std::set<uint32_t> own = own_mounts(checkpoint), mapped = mapped_files(checkpoint), deleted;
  for (const image::RemapFilePathEntry& remap : checkpoint.remaps) deleted.insert(remap.orig_id());
  std::map<std::string, RecordedFile> files;
  add_arguments(config, root.get(), files);
  for (const auto& [id, file] : checkpoint.files) {
    if (file.type() != image::REG || deleted.contains(id)) continue;
    const auto& reg = file.reg();
    if (own.contains(static_cast<uint32_t>(reg.mnt_id())) || !reg.name().starts_with('/')) continue;
    UniqueFd fd = find(root.get(), reg.name());
    if (!fd) continue;
    struct statx stat = kernel::stat_fd(fd.get());
    if (!S_ISREG(stat.stx_mode)) continue;
    if (mapped.contains(id))
      files[reg.name()] = look(reg.name(), stat);
    else if (reg.has_size())  // as the checkpoint needs it; it may have grown since
      files.try_emplace(reg.name(), RecordedFile{reg.name(), reg.size()});
  }
  std::vector<RecordedFile> list;
  for (auto& [path, file] : files) list.push_back(std::move(file));
  return list;
}

std::string changed_file(const std::vector<RecordedFile>& files, pid_t init) {
  UniqueFd root = root_of(init);
  for (const RecordedFile& file : files) {
    UniqueFd fd = find(root.get(), file.path);
    if (!fd) return file.path;
    struct statx stat = kernel::stat_fd(fd.get());
    bool dated = file.seconds != 0 || file.nanoseconds != 0;
    if (!S_ISREG(stat.stx_mode) || stat.stx_size != file.size ||
        (dated &&
         (stat.stx_mtime.tv_sec != file.seconds || stat.stx_mtime.tv_nsec != file.nanoseconds)))
      return file.path;
  }
  return "";
}

json to_json(const std::vector<RecordedFile>& files) {
  json list = json::array();
  for (const RecordedFile& file : files)
    list.push_back({{"path", file.path},
                    {"size", file.size},
                    {"seconds", file.seconds},
                    {"nanoseconds", file.nanoseconds}});
  return list;
}

std::vector<RecordedFile> files_from(const json& list) {
  std::vector<RecordedFile> files;
  for (const json& file : list)
    files.push_back({file.at("path"), file.at("size"), file.at("seconds"), file.at("nanoseconds")});
  return files;
}

}  // namespace stasis::hook
