// snapshot.json in a checkpoint that an annotation had made: the container that
// it fits. That is config.json without what is each container's own, the image,
// and the files that its processes had open or mapped.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "engine/image/checkpoint.h"

namespace stasis::hook {

constexpr const char* snapshot_record = "snapshot.json";

// config.json as far as it has to be the same. `bundle` and `id` are the
// container's: mounts whose sources are its own differ in nothing else.
nlohmann::json essence(std::string_view config_text, const std::string& bundle,
                       const std::string& id);

// What differs, as "/process/args/1"; empty: nothing.
std::string difference(const nlohmann::json& then, const nlohmann::json& now);

// The container's image, where its root tells: overlay's lower directories.
std::string root_image(pid_t init);

struct RecordedFile {
  std::string path;
  uint64_t size = 0;
  int64_t seconds = 0, nanoseconds = 0;  // of a program or library: its last change, else 0
};

// The files of `checkpoint`, and those that `args` name, below the root of `init`.
std::vector<RecordedFile> recorded_files(const image::Checkpoint& checkpoint,
                                         const nlohmann::json& config, pid_t init);

// The first that is another now; empty: none.
std::string changed_file(const std::vector<RecordedFile>& files, pid_t init);

nlohmann::json to_json(const std::vector<RecordedFile>& files);
std::vector<RecordedFile> files_from(const nlohmann::json& json);

}  // namespace stasis::hook
