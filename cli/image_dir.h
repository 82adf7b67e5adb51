// Where checkpoints lie. A new one is written into a hidden directory beside
// its place and renamed when it is whole; an older one of the same place is
// there until then, and gone afterwards.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/unique_fd.h"
#include "mountmap/mount_map.h"

namespace stasis::cli {

// /var/lib/stasis/checkpoints/ID
std::string default_image_dir(const std::string& id);

class NewImage {
 public:
  // Throws Error when something that isn't a checkpoint is in the way.
  explicit NewImage(std::string place);
  ~NewImage();  // unpublished: removes all of it
  NewImage(const NewImage&) = delete;
  NewImage& operator=(const NewImage&) = delete;

  int fd() const { return fd_.get(); }
  const std::string& place() const { return place_; }
  void add_file(const std::string& name, std::string_view text);
  void publish();

 private:
  std::string place_, parent_, hidden_;
  UniqueFd fd_;
  bool published_ = false;
};

// Where an external mount came from at the checkpoint.
struct RecordedSource {
  std::string key, source;
  mountmap::FileIdentity identity;  // unknown after a boot
};

// stasis.json in a checkpoint: what `stasis restore ID` has to know.
struct Manifest {
  std::string id, bundle, runc_root;
  bool tcp_established = false, file_locks = false, ext_unix_sk = false, shell_job = false;
  std::vector<RecordedSource> sources = {};
};
std::string to_json(const Manifest& manifest);

// Of a checkpoint that another door made there is none: all is empty then.
// Throws Error when `dir` holds no checkpoint.
Manifest read_manifest(const std::string& dir);

}  // namespace stasis::cli
