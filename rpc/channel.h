// The SOCK_SEQPACKET socket between a caller and us.
#pragma once

#include <sys/types.h>

#include <optional>

#include "base/unique_fd.h"
#include "rpc.pb.h"

namespace stasis::rpc {

class Channel {
 public:
  // Takes over `fd` and makes it close-on-exec. Throws Error when it isn't
  // such a socket.
  explicit Channel(int fd);

  // The next request; nothing when the caller has closed its end.
  std::optional<Request> receive();

  // `passed`, when not negative, goes along as SCM_RIGHTS. A long cr_errmsg
  // is cut so that the packet fits the 8 KiB buffer that callers have.
  void send(Response response, int passed = -1);

  pid_t peer() const { return peer_; }  // the caller's process

  // A file that the caller names by its own descriptor number.
  UniqueFd open_of_peer(int fd, int flags) const;

 private:
  UniqueFd fd_;
  pid_t peer_ = 0;
};

}  // namespace stasis::rpc
