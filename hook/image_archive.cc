#include "hook/image_archive.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace stasis::hook {

namespace {

using nlohmann::json;

constexpr size_t longest_document = 4 << 20;
constexpr size_t most_documents = 64;
constexpr std::string_view criu_blob =
    "application/vnd.containerd.container.criu.checkpoint.criu.tar";

Error refuse(const std::string& name, const std::string& cause) {
  return Error("unpack", name).because(cause).hint("save one image alone into the archive");
}

// Where a layout keeps what a digest names; empty: no digest.
std::string blob_path(const std::string& digest) {
  size_t colon = digest.find(':');
  if (colon == digest.npos) return "";
  auto plain = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z'); };
  if (!std::all_of(digest.begin(), digest.begin() + static_cast<ptrdiff_t>(colon), plain) ||
      !std::all_of(digest.begin() + static_cast<ptrdiff_t>(colon) + 1, digest.end(), plain))
    return "";
  return "blobs/" + digest.substr(0, colon) + "/" + digest.substr(colon + 1);
}

class Finder {
 public:
  Finder(int archive, std::string name) : archive_(archive), name_(std::move(name)) {}

  CheckpointBlobs find() {
    auto top = documents({"index.json", "manifest.json"});
    // An archive that has both says the same in both.
    if (auto index = top.find("index.json"); index != top.end())
      take_index(index->second);
    else if (auto docker = top.find("manifest.json"); docker != top.end())
      take_docker(docker->second);
    while (!open_.empty()) take_opened();
    // containerd lists the image that the container was made of, too.
    if ((criu_.empty() ? images_ : criu_.size()) > 1)
      throw refuse(name_, "it holds several images");
    return criu_.empty() ? CheckpointBlobs{layers_, false} : CheckpointBlobs{criu_, true};
  }

 private:
  std::map<std::string, json> documents(const std::set<std::string>& wanted) {
    std::map<std::string, json> found;
    auto tar = open_archive(archive_, name_);
    while (found.size() < wanted.size() && tar.next()) {
      if (!wanted.contains(tar.path()) || !tar.is_file()) continue;
      std::string text = tar.text(longest_document);
      json document = json::parse(text, nullptr, false);
      if (document.is_discarded()) tar.fail("it isn't valid JSON");
      found.emplace(tar.path(), std::move(document));
    }
    return found;
  }

  // Null where there is none.
  static json field(const json& object, const char* key) {
    return object.is_object() ? object.value(key, json()) : json();
  }

  static std::string word(const json& object, const char* key) {
    json value = field(object, key);
    return value.is_string() ? value.get<std::string>() : "";
  }

  static json list(const json& object, const char* key) {
    json value = field(object, key);
    return value.is_array() ? value : json::array();
  }

  void take_index(const json& index) {
    for (const json& entry : list(index, "manifests")) {
      std::string path = blob_path(word(entry, "digest")), type = word(entry, "mediaType");
      if (path.empty() || !seen_.insert(path).second) continue;
      if (seen_.size() > most_documents) throw refuse(name_, "it lists too many images");
      if (type == criu_blob)
        criu_.insert(path);
      else if (type.ends_with("json"))
        open_.insert(path);
    }
  }

  void take_opened() {
    std::set<std::string> wanted = std::exchange(open_, {});
    for (const auto& [path, document] : documents(wanted)) {
      take_index(document);
      if (list(document, "layers").empty()) continue;
      ++images_;
      for (const json& layer : list(document, "layers"))
        if (std::string blob = blob_path(word(layer, "digest")); !blob.empty())
          layers_.insert(blob);
    }
  }

  void take_docker(const json& manifest) {
    if (!manifest.is_array()) return;
    for (const json& image : manifest) {
      ++images_;
      for (const json& layer : list(image, "Layers"))
        if (layer.is_string()) layers_.insert(layer.get<std::string>());
    }
  }

  int archive_;
  std::string name_;
  std::set<std::string> open_, seen_, criu_, layers_;
  size_t images_ = 0;
};

}  // namespace

engine::mounts::ArchiveReader open_archive(int archive, const std::string& name) {
  return {archive,
          "unpack",
          name,
          {archive_read_support_filter_gzip, archive_read_support_filter_zstd}};
}

CheckpointBlobs checkpoint_blobs(int archive, const std::string& name) {
  return Finder(archive, name).find();
}

}  // namespace stasis::hook
