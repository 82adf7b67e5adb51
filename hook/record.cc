#include "hook/record.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "base/scope_exit.h"
#include "kernel/directories.h"
#include "kernel/fs.h"
#include "kernel/proc_misc.h"
#include "kernel/proc_stat.h"
#include "kernel/proc_status.h"
#include "mountmap/map_json.h"
#include "oci/document.h"
#include "oci/state.h"

namespace stasis::hook {

namespace {

constexpr const char* file_name = "mountmap.json";

// The directory of this name, made if need be; never through a symbolic link.
UniqueFd make_directory(int parent, const std::string& name) {
  long result = kernel::call(SYS_mkdirat, parent, name.c_str(), 0700);
  if (result != -EEXIST) kernel::must(result, "make directory", name);
  return kernel::open_at(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
}

// -ENOENT where there is no record directory of this container.
long open_directory(std::string_view state_dir, const std::string& id) {
  oci::check_container_id(id);
  std::string path = std::string(state_dir) + "/" + id;
  return kernel::call(SYS_openat, AT_FDCWD, path.c_str(),
                      O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

// An id of a process may have been used again since.
struct Init {
  pid_t pid = 0;
  uint64_t start_time = 0;
  bool operator==(const Init&) const = default;
};

// The first of a pid namespace waits in its end for all others of it, and a
// runtime calls poststop meanwhile.
bool is_ending(const kernel::ProcStat& stat) {
  constexpr uint32_t exiting = 4;  // PF_EXITING
  constexpr uint64_t kill = uint64_t{1} << (SIGKILL - 1);
  if (stat.state == 'Z' || stat.state == 'X' || (stat.flags & exiting)) return true;
  auto status =
      kernel::parse_status(kernel::read_file("/proc/" + std::to_string(stat.pid) + "/status"));
  return ((status.pending | status.shared_pending) & kill) != 0;
}

// Nothing where it has ended.
std::optional<Init> living(pid_t pid) {
  if (pid <= 0) return std::nullopt;
  try {
    auto stat = kernel::find_stat(pid);
    if (!stat || is_ending(*stat)) return std::nullopt;
    return Init{pid, stat->start_time};
  } catch (const Error& error) {
    if (error.code() == ENOENT || error.code() == ESRCH) return std::nullopt;
    throw;
  }
}

nlohmann::json to_json(const mountmap::MountMap& map, const RecordedContainer& container) {
  nlohmann::json json{{"version", 1},
                      {"id", container.id},
                      {"bundle", container.bundle},
                      {"boot_id", kernel::boot_id()}};
  if (auto init = living(container.init))
    json["init"] = {{"pid", init->pid}, {"start_time", init->start_time}};
  json["mounts"] = nlohmann::json::array();
  for (const auto& row : map.rows) json["mounts"].push_back(mountmap::to_json(row));
  json["findings"] = nlohmann::json::array();
  for (const auto& finding : map.findings) json["findings"].push_back(mountmap::to_json(finding));
  return json;
}

// Nothing where there is none, or none of this boot: inode numbers of tmpfs and
// the like mean nothing after it.
std::optional<oci::Document> read_record(std::string_view state_dir, const std::string& id) {
  long fd = open_directory(state_dir, id);
  if (fd == -ENOENT) return std::nullopt;
  UniqueFd directory(static_cast<int>(kernel::must(fd, "open the record of container", id)));
  fd = kernel::call(SYS_openat, directory.get(), file_name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  if (fd == -ENOENT) return std::nullopt;
  UniqueFd file(static_cast<int>(kernel::must(fd, "open the record of container", id)));
  std::string name = std::string(state_dir) + "/" + id + "/" + file_name;
  oci::Document document(kernel::read_all(file.get(), name), name);
  if (document.root().string("boot_id") != kernel::boot_id()) return std::nullopt;
  return document;
}

std::optional<Init> recorded_init(const oci::Document& record) {
  auto init = record.root().find("init");
  if (!init) return std::nullopt;
  return Init{static_cast<pid_t>(init->number("pid")), init->number("start_time")};
}

}  // namespace

bool is_of_another(std::string_view state_dir, const RecordedContainer& container) {
  try {
    auto record = read_record(state_dir, container.id);
    auto init = record ? recorded_init(*record) : std::nullopt;
    return init && init->pid != container.init && living(init->pid) == init;
  } catch (const Error&) {
    return false;  // it can't be read by that one either
  }
}

void save_record(std::string_view state_dir, const RecordedContainer& container,
                 const mountmap::MountMap& map) {
  const std::string& id = container.id;
  oci::check_container_id(id);
  std::string text = mountmap::dump_json(to_json(map, container));
  UniqueFd top = make_directory(AT_FDCWD, std::string(state_dir));
  UniqueFd directory = make_directory(top.get(), id);
  std::string fresh = std::string(file_name) + "." + std::to_string(getpid());
  UniqueFd file =
      kernel::open_at(directory.get(), fresh, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
  ScopeExit remove([&] { kernel::call(SYS_unlinkat, directory.get(), fresh.c_str(), 0); });
  kernel::write_all(file.get(), text, fresh);
  kernel::must(
      kernel::call(SYS_renameat2, directory.get(), fresh.c_str(), directory.get(), file_name, 0),
      "rename", fresh);
  remove.dismiss();
}

std::optional<mountmap::SourceRecord> load_record(std::string_view state_dir, const std::string& id,
                                                  pid_t init) {
  auto record = read_record(state_dir, id);
  if (!record || recorded_init(*record) != living(init)) return std::nullopt;
  mountmap::SourceRecord sources;
  record->root().at("mounts").each([&](const oci::Node& node) {
    if (auto identity = node.find("identity"))
      sources[node.string("key")] = mountmap::identity_from(*identity);
  });
  return sources;
}

void remove_record(std::string_view state_dir, const std::string& id) {
  long fd = open_directory(state_dir, id);
  if (fd == -ENOENT) return;
  UniqueFd directory(static_cast<int>(kernel::must(fd, "open the record of container", id)));
  // The file, and what a hook that was killed may have left beside it.
  std::vector<std::string> names;
  try {
    names = kernel::entries(directory.get(), id);
  } catch (const Error& error) {
    if (error.code() == ENOENT) return;  // poststop and a watcher may come at once
    throw;
  }
  for (const std::string& name : names)
    if (name.starts_with(file_name) || name == "restore.log" || name == "watcher")
      kernel::call(SYS_unlinkat, directory.get(), name.c_str(), 0);
  std::string path = std::string(state_dir) + "/" + id;
  long result = kernel::call(SYS_unlinkat, AT_FDCWD, path.c_str(), AT_REMOVEDIR);
  if (result != -ENOENT) kernel::must(result, "remove", path);
}

void remove_own_record(std::string_view state_dir, const RecordedContainer& container) {
  if (!is_of_another(state_dir, container)) remove_record(state_dir, container.id);
}

}  // namespace stasis::hook
