// `stasis checkpoint ID`: a container of runc goes into stasis.
#pragma once

#include <cstdio>
#include <string>

#include "engine/plan.h"
#include "oci/state.h"

namespace stasis::cli {

struct CheckpointOptions {
  std::string id;
  std::string image;  // empty: the default place
  std::string runc_root{oci::default_runc_root};
  std::string runtime = "runc";
  std::string policy_file;  // empty: the machine's
  bool leave_running = false;
  engine::Snapshot snapshot = engine::Snapshot::automatic;
  bool tcp_close = false, skip_in_flight = false;
  bool tcp_established = false, file_locks = false, ext_unix_sk = false, shell_job = false;
  bool json = false;
};

// Exit code. Throws Error; the container goes on as before then.
int checkpoint(const CheckpointOptions& options, FILE* out);

// Throws Error unless we are root.
void require_root(const std::string& operation, const std::string& subject);

}  // namespace stasis::cli
