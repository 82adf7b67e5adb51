#include "hook/checkpoint_archive.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <filesystem>

#include "base/error.h"
#include "kernel/fs.h"

namespace stasis::hook {

namespace {

namespace fs = std::filesystem;

// One by one: by number the library would need all of its compressors.
using Filter = int (*)(archive*);
constexpr Filter none = archive_write_add_filter_none, gzip = archive_write_add_filter_gzip;

struct Place {
  Place() {
    char name[] = "/tmp/stasis-archive-XXXXXX";
    path = mkdtemp(name);
  }
  ~Place() { fs::remove_all(path); }

  // An archive of files whose content is their name.
  UniqueFd archive_of(const std::vector<std::string>& names, Filter filter,
                      mode_t type = AE_IFREG) {
    std::vector<std::pair<std::string, std::string>> files;
    files.reserve(names.size());
    for (const std::string& name : names) files.emplace_back(name, name);
    return archive_with(files, filter, type);
  }
  UniqueFd archive_with(const std::vector<std::pair<std::string, std::string>>& files,
                        Filter filter = none, mode_t type = AE_IFREG) {
    std::string file = path / "archive";
    archive* a = archive_write_new();
    filter(a);
    archive_write_set_format_pax_restricted(a);
    REQUIRE(archive_write_open_filename(a, file.c_str()) == ARCHIVE_OK);
    for (const auto& [name, content] : files) {
      archive_entry* entry = archive_entry_new();
      archive_entry_set_pathname(entry, name.c_str());
      archive_entry_set_filetype(entry, type);
      archive_entry_set_perm(entry, 0666);
      if (type == AE_IFLNK) archive_entry_set_symlink(entry, "/etc/passwd");
      archive_entry_set_size(entry, type == AE_IFREG ? static_cast<la_int64_t>(content.size()) : 0);
      archive_write_header(a, entry);
      if (type == AE_IFREG) archive_write_data(a, content.data(), content.size());
      archive_entry_free(entry);
    }
    archive_write_free(a);
    return kernel::open(file, O_RDONLY);
  }
  // The bytes of such an archive, to be put into another.
  std::string tar_of(const std::vector<std::string>& names, Filter filter) {
    archive_of(names, filter);
    return kernel::read_file(path / "archive");
  }
  std::string unpacked(const UniqueFd& archive, const std::string& file) const {
    UniqueFd directory = unpack_checkpoint(archive.get(), "it", "id", log, path / "place");
    std::string content = kernel::read_file_at(directory.get(), file);
    CHECK(std::distance(fs::directory_iterator(path / "place/id"), {}) == 2);
    remove_unpacked("id", path / "place");
    return content;
  }
  bool refuses(const UniqueFd& archive, const std::string& cause) const {
    try {
      unpack_checkpoint(archive.get(), "it", "id", log, path / "place");
    } catch (const Error& error) {
      CAPTURE(error.what());
      return std::string(error.what()).find(cause) != std::string::npos &&
             !fs::exists(path / "place/id");
    }
    return false;
  }

  fs::path path;
  mutable NullLog log;
};

}  // namespace

TEST_CASE("Of an archive the images are taken, for root's eyes alone") {
  for (Filter filter : {none, gzip, archive_write_add_filter_zstd}) {
    Place place;
    UniqueFd archive = place.archive_of(
        {"config.dump", "checkpoint/inventory.img", "./checkpoint/core-1.img", "rootfs-diff.tar",
         "deleted.files", "devshm-checkpoint.tar", "other/deleted.files",
         "checkpoint/deep/core-2.img", "checkpoint/../out.img", "/checkpoint/inventory.img"},
        filter);
    UniqueFd directory =
        unpack_checkpoint(archive.get(), "it", "id", place.log, place.path / "place");
    CHECK(kernel::read_file_at(directory.get(), "core-1.img") == "./checkpoint/core-1.img");
    fs::path unpacked = place.path / "place/id";
    CHECK(std::distance(fs::directory_iterator(unpacked), {}) == 5);
    CHECK(fs::status(unpacked).permissions() == fs::perms::owner_all);
    CHECK((kernel::stat_fd(directory.get()).stx_mode & 077) == 0);
    CHECK(fs::status(unpacked / "core-1.img").permissions() ==
          (fs::perms::owner_read | fs::perms::owner_write));
    remove_unpacked("id", place.path / "place");
    CHECK_FALSE(fs::exists(unpacked));
    remove_unpacked("id", place.path / "place");
  }
}

TEST_CASE("What isn't such an archive is refused, and nothing of it stays") {
  Place place;
  CHECK(place.refuses(place.archive_of({"config.dump"}, gzip), "it holds no"));
  CHECK(place.refuses(
      place.archive_of({"checkpoint/inventory.img", "checkpoint/inventory.img"}, none),
      "File exists"));
  CHECK(
      place.refuses(place.archive_of({"checkpoint/core-1.img"}, none, AE_IFLNK), "it is no file"));
  CHECK(
      place.refuses(place.archive_of({"checkpoint/core-1.img"}, none, AE_IFCHR), "it is no file"));
  UniqueFd cut = place.archive_of({"checkpoint/inventory.img"}, none);
  fs::resize_file(place.path / "archive", 515);
  CHECK(place.refuses(cut, "it"));
  CHECK_THROWS_AS(remove_unpacked("../id", place.path / "place"), Error);
}

namespace {

const std::string manifest_type = "application/vnd.oci.image.manifest.v1+json";
const std::string criu_type = "application/vnd.containerd.container.criu.checkpoint.criu.tar";

std::string entry(const std::string& type, const std::string& name) {
  return R"({"mediaType":")" + type + R"(","digest":"sha256:)" + name + "\"}";
}

std::string index(const std::string& entries) {
  return R"({"schemaVersion":2,"manifests":[)" + entries + "]}";
}

const std::string layers_of_image =
    R"({"layers":[)" + entry("application/vnd.oci.image.layer.v1.tar+gzip", "1a") + "]}";

}  // namespace

TEST_CASE("An image may hold a checkpoint's archive as a layer") {
  Place place;
  std::string layer =
      place.tar_of({"spec.dump", "checkpoint/inventory.img", "checkpoint/core-1.img"}, gzip);
  // Blobs come before what names them, or after it.
  CHECK(place.unpacked(place.archive_with({{"blobs/sha256/1a", layer},
                                           {"blobs/sha256/2b", layers_of_image},
                                           {"index.json", index(entry(manifest_type, "2b"))},
                                           {"oci-layout", "{}"}},
                                          gzip),
                       "core-1.img") == "checkpoint/core-1.img");
  CHECK(place.unpacked(
            place.archive_with(
                {{"manifest.json", R"([{"Config":"c","Layers":["1a.tar"]}])"}, {"1a.tar", layer}}),
            "core-1.img") == "checkpoint/core-1.img");
}

TEST_CASE("containerd's own checkpoint is the one blob of its kind in an image") {
  Place place;
  std::string images = place.tar_of({"inventory.img", "core-1.img", "descriptors.json"}, none);
  std::string listed = index(entry(manifest_type, "2b") + "," + entry(criu_type, "3c"));
  std::string image_index = "application/vnd.oci.image.index.v1+json";
  std::vector<std::pair<std::string, std::string>> files = {
      {"blobs/sha256/2b", layers_of_image},
      {"blobs/sha256/1a", "the container's own image: not looked at"},
      {"blobs/sha256/3c", images},
      {"blobs/sha256/4d", listed},
      {"index.json", index(entry(image_index, "4d"))}};
  CHECK(place.unpacked(place.archive_with(files), "core-1.img") == "core-1.img");
  files[3].second = index(entry(criu_type, "3c") + "," + entry(criu_type, "5e"));
  CHECK(place.refuses(place.archive_with(files), "it holds several images"));
}

TEST_CASE("An image that holds no checkpoint, or lies, is refused") {
  Place place;
  std::string layer = place.tar_of({"etc/passwd"}, gzip);
  auto image = [&](const std::string& index, const std::string& manifest) {
    return place.archive_with(
        {{"blobs/sha256/1a", layer}, {"blobs/sha256/2b", manifest}, {"index.json", index}});
  };
  std::string one = index(entry(manifest_type, "2b"));
  CHECK(place.refuses(image(one, layers_of_image), "it holds no checkpoint/inventory.img"));
  CHECK(place.refuses(image("{", layers_of_image), "(index.json): it isn't valid JSON"));
  for (const char* text : {"7", "{}", R"({"layers":7})", R"({"layers":[7,{"digest":"../../x"}]})"})
    CHECK(place.refuses(image(one, text), "it holds no checkpoint/inventory.img"));
  // One that names itself.
  CHECK(place.refuses(image(one, one), "it holds no checkpoint/inventory.img"));
  layer = place.tar_of({"checkpoint/inventory.img"}, none).substr(0, 700);
  CHECK(place.refuses(image(one, layers_of_image), "blobs/sha256/1a"));
}

}  // namespace stasis::hook
