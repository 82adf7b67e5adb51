#include "hook/install.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>

#include "base/scope_exit.h"
#include "kernel/directories.h"
#include "kernel/fs.h"

namespace stasis::hook {

namespace {

constexpr const char* phases[] = {"createRuntime", "poststart", "poststop"};

std::string file_name(const char* phase) { return std::string("stasis-") + phase + ".json"; }

// A runtime that starts meanwhile sees the old file or the new one, whole.
void replace(int directory, const HookFile& file) {
  std::string fresh = "." + file.name + "." + std::to_string(getpid());
  UniqueFd out = kernel::open_at(directory, fresh, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0644);
  ScopeExit remove([&] { kernel::call(SYS_unlinkat, directory, fresh.c_str(), 0); });
  kernel::write_all(out.get(), file.text, fresh);
  // A reader may be no root: hook-injector runs in a container.
  kernel::must(kernel::call(SYS_fchmod, out.get(), 0644), "let all read", fresh);
  kernel::must(
      kernel::call(SYS_renameat2, directory, fresh.c_str(), directory, file.name.c_str(), 0),
      "write", file.name);
  remove.dismiss();
}

}  // namespace

std::vector<HookFile> hook_files(const std::string& binary) {
  std::vector<HookFile> files;
  for (const char* phase : phases) {
    nlohmann::ordered_json json = {
        {"version", "1.0.0"},
        {"hook", {{"path", binary}, {"args", {"stasis", "hook", phase}}}},
        {"when", {{"annotations", {{"^dev\\.stasis\\.(restore|snapshot)$", ".+"}}}}},
        {"stages", {phase}}};
    files.push_back({file_name(phase), json.dump(2) + "\n"});
  }
  return files;
}

std::vector<std::string> install(const std::string& directory, const std::string& binary) {
  kernel::make_directories(directory, 0755);
  UniqueFd target = kernel::open(directory, O_RDONLY | O_DIRECTORY);
  std::vector<std::string> written;
  for (const HookFile& file : hook_files(binary)) {
    replace(target.get(), file);
    written.push_back(directory + "/" + file.name);
  }
  return written;
}

std::vector<std::string> uninstall(const std::string& directory) {
  std::vector<std::string> removed;
  for (const char* phase : phases) {
    std::string path = directory + "/" + file_name(phase);
    long result = kernel::call(SYS_unlinkat, AT_FDCWD, path.c_str(), 0);
    if (result == -ENOENT) continue;
    kernel::must(result, "remove", path);
    removed.push_back(path);
  }
  return removed;
}

}  // namespace stasis::hook
