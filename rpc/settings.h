// What a request asks for, put together from /etc/criu/default.conf, the
// request itself and the configuration file it names, in this order: the last
// word wins. From it come the directories and the log.
#pragma once

#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "rpc.pb.h"
#include "rpc/channel.h"

namespace stasis::rpc {

struct Settings {
  Options opts;
  // Only configuration files and the command line name these by path; the log's
  // may hold slashes, unlike opts.log_file, and "-" is stdout.
  std::string work_dir, log_path;
  // What only a command line says.
  std::string pidfile;
  std::string aufs_root, aufs_ref;  // of a dump: where aufs is mounted; a mount beside it
  bool aufs = false;
  std::string plugins;  // directory of plugins
  std::vector<std::string> features;
  bool detach = false, help = false, version = false;
  bool ignored = false;  // of switches that make no difference here
};

struct Directories {
  UniqueFd images, work;
};
Directories open_directories(const Settings& settings, const Channel& channel);
// For a command line: everything is a path, the current directory the default.
Directories open_directories(const Settings& settings);

// The log's descriptor, for appending; an older log is emptied.
UniqueFd open_log(const Settings& settings, const Directories& directories);

}  // namespace stasis::rpc
