#include "hook/mount_fit.h"

#include <sys/mount.h>

#include <catch2/catch.hpp>

#include "engine/image/format.h"

using namespace stasis;

namespace {

image::MntEntry& add(image::Checkpoint& checkpoint, uint32_t id, const std::string& point,
                     uint32_t type, const std::string& external = {}) {
  image::MntEntry& entry = checkpoint.mounts[0].emplace_back();
  entry.set_mnt_id(id);
  entry.set_parent_mnt_id(point == "/" ? 1 : 10);
  entry.set_mountpoint(point);
  entry.set_root("/");
  entry.set_fstype(type);
  if (!external.empty()) {
    entry.set_ext_mount(true);
    entry.set_ext_key(external);
  }
  return entry;
}

oci::ConfigMount bind(const std::string& point, const std::string& source,
                      const std::string& option = "rw") {
  return {point, "bind", source, {"bind", option}};
}

}  // namespace

TEST_CASE("every difference between a checkpoint's mounts and config.json's is named") {
  image::Checkpoint checkpoint;
  checkpoint.tasks.emplace_back();
  add(checkpoint, 10, "/", image::UNSUPPORTED);
  add(checkpoint, 11, "/cache", image::TMPFS);
  add(checkpoint, 12, "/data", image::UNSUPPORTED, "/data");
  add(checkpoint, 13, "/gone", image::TMPFS);
  checkpoint.more.emplace();
  image::HostSourceEntry& source = *checkpoint.more->add_sources();
  source.set_mnt_id(12);
  source.set_path("/srv/data");
  oci::Config config;
  config.root_path = "/nowhere";
  auto differences = [&](std::vector<oci::ConfigMount> mounts) {
    config.mounts = std::move(mounts);
    return hook::mount_differences(checkpoint, config);
  };
  oci::ConfigMount cache{"/cache", "tmpfs", "tmpfs", {}}, gone{"/gone", "tmpfs", "tmpfs", {}};
  using Lines = std::vector<std::string>;

  CHECK(differences({cache, bind("/data", "/srv/data"), gone}) == Lines{});
  CHECK(differences({cache, bind("/data", "/srv/data")}).at(0).find("/gone (tmpfs) was mounted") ==
        0);
  CHECK(differences({cache, bind("/data", "/srv/other"), gone}) ==
        Lines{"/data was /srv/data at the checkpoint and is /srv/other now"});
  CHECK(differences({cache, bind("/data", "/srv/data", "ro"), gone}) ==
        Lines{"/data was writable at the checkpoint and is read-only now"});
  CHECK(differences({bind("/cache", "/x"), bind("/data", "/srv/data"), gone}) ==
        Lines{"/cache was a tmpfs at the checkpoint and is bound now: what it held is left out"});
  CHECK(differences({cache, {"/data", "tmpfs", "tmpfs", {}}, gone}) ==
        Lines{"/data was bound at the checkpoint and is tmpfs now"});
  CHECK(differences({cache, bind("/data", "/srv/data"), gone, bind("/new", "/srv/new")}) ==
        Lines{"/new is /srv/new now, at the checkpoint nothing was mounted there"});
}
