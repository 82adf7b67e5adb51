// `stasis restore --map DEST=SOURCE`: sources given on the command line take
// the place of those in config.json. A runtime reads nothing but its bundle, so
// it gets one with a changed copy of config.json.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "engine/image/checkpoint.h"
#include "oci/config.h"

namespace stasis::cli {

struct Remap {
  std::string destination;  // the key of an external mount of the image
  std::string source;       // absolute
  bool read_only = false;   // as the image has it
};

// Throws where a DEST is no external mount that a bundle can bind, naming
// those that are near.
std::vector<Remap> parse_maps(const std::vector<std::string>& arguments,
                              const image::Checkpoint& image, const oci::Config& config);

// The text of `config` (of the bundle) with the sources of `maps`, and without
// paths that are relative to the bundle.
std::string mapped_config(const std::string& text, const std::string& bundle,
                          const std::vector<Remap>& maps);

// /var/lib/stasis/bundles/ID with nothing but config.json: the container's
// bundle for as long as it or a checkpoint of it exists. Unless kept, what was
// there before is put back.
class MappedBundle {
 public:
  MappedBundle(const std::string& parent, const std::string& id, const std::string& config);
  ~MappedBundle();
  MappedBundle(const MappedBundle&) = delete;
  MappedBundle& operator=(const MappedBundle&) = delete;

  const std::string& path() const { return path_; }
  void keep() { kept_ = true; }

 private:
  void write(const std::string& config) const;

  std::string path_;
  std::optional<std::string> before_;
  bool kept_ = false;
};

constexpr const char* bundles_dir = "/var/lib/stasis/bundles";

}  // namespace stasis::cli
