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
    std::string file = path / "archive";
    archive* a = archive_write_new();
    filter(a);
    archive_write_set_format_pax_restricted(a);
    REQUIRE(archive_write_open_filename(a, file.c_str()) == ARCHIVE_OK);
    for (const std::string& name : names) {
      archive_entry* entry = archive_entry_new();
      archive_entry_set_pathname(entry, name.c_str());
      archive_entry_set_filetype(entry, type);
      archive_entry_set_perm(entry, 0666);
      if (type == AE_IFLNK) archive_entry_set_symlink(entry, "/etc/passwd");
      archive_entry_set_size(entry, type == AE_IFREG ? static_cast<la_int64_t>(name.size()) : 0);
      archive_write_header(a, entry);
      if (type == AE_IFREG) archive_write_data(a, name.data(), name.size());
      archive_entry_free(entry);
    }
    archive_write_free(a);
    return kernel::open(file, O_RDONLY);
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
         "checkpoint/deep/core-2.img", "checkpoint/../out.img", "/checkpoint/inventory.img"},
        filter);
    UniqueFd directory =
        unpack_checkpoint(archive.get(), "it", "id", place.log, place.path / "place");
    CHECK(kernel::read_file_at(directory.get(), "core-1.img") == "./checkpoint/core-1.img");
    fs::path unpacked = place.path / "place/id";
    CHECK(std::distance(fs::directory_iterator(unpacked), {}) == 2);
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
  CHECK(place.refuses(place.archive_of({"checkpoint/core-1.img"}, none, AE_IFLNK),
                      "an image is no file"));
  CHECK(place.refuses(place.archive_of({"checkpoint/core-1.img"}, none, AE_IFCHR),
                      "an image is no file"));
  UniqueFd cut = place.archive_of({"checkpoint/inventory.img"}, none);
  fs::resize_file(place.path / "archive", 515);
  CHECK(place.refuses(cut, "it"));
  CHECK_THROWS_AS(remove_unpacked("../id", place.path / "place"), Error);
}

}  // namespace stasis::hook
