// What a request asks for, put together from /etc/criu/default.conf, the
// request itself and the configuration file it names, in this order: the last
// word wins. From it come the directories and the log.
#pragma once

#include <string>

#include "base/unique_fd.h"
#include "rpc.pb.h"
#include "rpc/channel.h"

namespace stasis::rpc {

struct Settings {
  Options opts;
  std::string work_dir;  // only configuration files name it by path
  std::string log_path;  // likewise; may hold slashes, unlike opts.log_file
};

struct Directories {
  UniqueFd images, work;
};
Directories open_directories(const Settings& settings, const Channel& channel);

// The log's descriptor, for appending; an older log is emptied.
UniqueFd open_log(const Settings& settings, const Directories& directories);

}  // namespace stasis::rpc
