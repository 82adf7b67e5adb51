#include "cli/image_dir.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "kernel/directories.h"
#include "kernel/fs.h"
#include "kernel/proc_misc.h"
#include "mountmap/map_json.h"
#include "oci/document.h"

namespace stasis::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* manifest_name = "stasis.json";

bool is_checkpoint(const std::string& dir) { return kernel::exists(dir + "/inventory.img"); }

void sync(const std::string& directory) {
  UniqueFd fd = kernel::open(directory, O_RDONLY | O_DIRECTORY);
  kernel::must(kernel::call(SYS_fsync, fd.get()), "write out", directory);
}

// Whoever writes into a hidden directory holds a lock on it. One that nobody
// holds was left by a stasis that was killed.
// Whoever reads a published one does so as well.
bool lock(int directory) { return kernel::call(SYS_flock, directory, LOCK_EX | LOCK_NB) == 0; }

void wait_for_lock(int directory, const std::string& name) {
  long locked;
  do locked = kernel::call(SYS_flock, directory, LOCK_EX);
  while (locked == -EINTR);
  kernel::must(locked, "lock", name);
}

void remove_leftovers(const std::string& parent, const std::string& prefix) {
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(parent, ignored)) {
    std::string name = entry.path().filename().string();
    if (!name.starts_with(prefix) || name.size() != prefix.size() + 6) continue;
    UniqueFd fd(static_cast<int>(kernel::call(SYS_openat, AT_FDCWD, entry.path().c_str(),
                                              O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)));
    if (fd && lock(fd.get())) fs::remove_all(entry.path(), ignored);
  }
}

}  // namespace

std::string default_image_dir(const std::string& id) { return "/var/lib/stasis/checkpoints/" + id; }

NewImage::NewImage(std::string place) {
  place_ = fs::absolute(place).lexically_normal().string();
  while (place_.size() > 1 && place_.ends_with('/')) place_.pop_back();
  fs::path path(place_);
  parent_ = path.parent_path().string();
  std::error_code ignored;
  if (kernel::exists(place_) && !is_checkpoint(place_) && !fs::is_empty(place_, ignored))
    throw Error("write a checkpoint to", place_)
        .because("something that isn't a checkpoint is there")
        .hint("choose another place with --image DIR");
  kernel::make_directories(parent_, 0700);
  std::string prefix = "." + path.filename().string() + ".";
  // Or another would take ours, between its making and its lock, for a leftover.
  UniqueFd turn = kernel::open(parent_, O_RDONLY | O_DIRECTORY);
  wait_for_lock(turn.get(), parent_);
  remove_leftovers(parent_, prefix);
  hidden_ = parent_ + "/" + prefix + "XXXXXX";
  if (!mkdtemp(hidden_.data())) {
    int code = errno;
    throw Error("create a directory in", parent_).with_errno(code);
  }
  fd_ = kernel::open(hidden_, O_RDONLY | O_DIRECTORY);
  // Shared: what is written so far is read before it is published.
  kernel::must(kernel::call(SYS_flock, fd_.get(), LOCK_SH | LOCK_NB), "lock", hidden_);
}

NewImage::~NewImage() {
  std::error_code ignored;
  if (!published_) fs::remove_all(hidden_, ignored);
}

void NewImage::add_file(const std::string& name, std::string_view text) {
  UniqueFd file = kernel::open_at(fd_.get(), name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
  kernel::write_all(file.get(), text, name);
  kernel::must(kernel::call(SYS_fsync, file.get()), "write out", name);
}

void NewImage::publish() {
  kernel::must(kernel::call(SYS_fsync, fd_.get()), "write out", hidden_);
  auto rename = [&](unsigned flags) {
    return kernel::call(SYS_renameat2, AT_FDCWD, hidden_.c_str(), AT_FDCWD, place_.c_str(), flags);
  };
  long renamed = rename(RENAME_NOREPLACE);
  bool replaced = renamed == -EEXIST;
  if (replaced) renamed = rename(RENAME_EXCHANGE);
  kernel::must(renamed, "publish", place_);
  published_ = true;
  sync(parent_);
  std::error_code ignored;
  if (!replaced) return;
  UniqueFd before = kernel::open(hidden_, O_RDONLY | O_DIRECTORY);
  wait_for_lock(before.get(), hidden_);
  fs::remove_all(hidden_, ignored);
}

std::string to_json(const Manifest& manifest) {
  nlohmann::ordered_json json = {{"version", 1},
                                 {"id", manifest.id},
                                 {"bundle", manifest.bundle},
                                 {"runcRoot", manifest.runc_root},
                                 {"tcpEstablished", manifest.tcp_established},
                                 {"fileLocks", manifest.file_locks},
                                 {"extUnixSk", manifest.ext_unix_sk},
                                 {"shellJob", manifest.shell_job},
                                 {"bootId", kernel::boot_id()},
                                 {"sources", nlohmann::ordered_json::array()}};
  for (const RecordedSource& source : manifest.sources)
    json["sources"].push_back({{"key", source.key},
                               {"source", source.source},
                               {"identity", mountmap::to_json(source.identity)}});
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

Manifest read_manifest(const std::string& dir) {
  if (!is_checkpoint(dir))
    throw Error("find a checkpoint in", dir)
        .because(kernel::exists(dir) ? "there is no inventory.img" : "there is no such directory")
        .hint("make one with: stasis checkpoint ID, or name its place with --image DIR");
  std::string path = dir + "/" + manifest_name;
  if (!kernel::exists(path)) return {};
  oci::Document document(kernel::read_file(path, 1 << 20), path);
  oci::Node root = document.root();
  if (root.number("version") != 1) root.at("version").fail("a version this stasis doesn't know");
  std::vector<RecordedSource> sources;
  bool this_boot = root.string("bootId") == kernel::boot_id();
  if (auto list = root.find("sources"))
    list->each([&](const oci::Node& node) {
      RecordedSource source{node.string("key"), node.string("source"), {}};
      if (this_boot) source.identity = mountmap::identity_from(node.at("identity"));
      sources.push_back(std::move(source));
    });
  return {.id = root.string("id"),
          .bundle = root.string("bundle"),
          .runc_root = root.string("runcRoot"),
          .tcp_established = root.boolean("tcpEstablished"),
          .file_locks = root.boolean("fileLocks"),
          .ext_unix_sk = root.boolean("extUnixSk"),
          .shell_job = root.boolean("shellJob"),
          .sources = std::move(sources)};
}

}  // namespace stasis::cli
