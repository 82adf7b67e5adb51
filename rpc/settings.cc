#include "rpc/settings.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernel/fs.h"

namespace stasis::rpc {
namespace {

UniqueFd open_directory(const std::string& path) {
  return kernel::open(path, O_RDONLY | O_DIRECTORY);
}

UniqueFd duplicate(int fd) {
  return UniqueFd(static_cast<int>(
      kernel::must(kernel::call(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 0), "duplicate", "a descriptor")));
}

UniqueFd open_images(const Options& opts, const Channel& channel) {
  if (opts.images_dir_fd() >= 0)
    return channel.open_of_peer(opts.images_dir_fd(), O_RDONLY | O_DIRECTORY);
  if (opts.has_images_dir()) return open_directory(opts.images_dir());
  throw Error("open", "the image directory")
      .because("the request has neither images_dir_fd nor images_dir");
}

}  // namespace

Directories open_directories(const Settings& settings, const Channel& channel) {
  Directories result;
  result.images = open_images(settings.opts, channel);
  if (!settings.work_dir.empty())
    result.work = open_directory(settings.work_dir);
  else if (settings.opts.has_work_dir_fd())
    result.work = channel.open_of_peer(settings.opts.work_dir_fd(), O_RDONLY | O_DIRECTORY);
  else
    result.work = duplicate(result.images.get());
  return result;
}

Directories open_directories(const Settings& settings) {
  Directories result;
  result.images = open_directory(settings.opts.has_images_dir() ? settings.opts.images_dir() : ".");
  result.work = settings.work_dir.empty() ? duplicate(result.images.get())
                                          : open_directory(settings.work_dir);
  return result;
}

UniqueFd open_log(const Settings& settings, const Directories& directories) {
  constexpr int flags = O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_NOFOLLOW | O_NOCTTY;
  const Options& opts = settings.opts;
  if (settings.log_path == "-") return duplicate(STDOUT_FILENO);
  if (!settings.log_path.empty())
    return kernel::open_at(directories.work.get(), settings.log_path, flags, 0600);
  if (opts.log_to_stderr() && !opts.has_log_file()) return duplicate(STDERR_FILENO);
  std::string name = opts.has_log_file() ? opts.log_file() : "criu.log";
  if (name.find('/') != name.npos)
    throw Error("open", "the log " + name)
        .because("log_file is a name in the work directory, without slashes");
  return kernel::open_at(directories.work.get(), name, flags, 0600);
}

}  // namespace stasis::rpc
