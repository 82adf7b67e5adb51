#include "engine/mounts/taken.h"

#include <sys/mount.h>

#include <catch2/catch.hpp>

#include "engine/mounts/tree.h"

using namespace stasis::engine;
using namespace stasis::engine::mounts;
namespace image = stasis::image;
using stasis::mountmap::MountTable;

namespace {

// As the dump describes them, as far as it matters here: the last mount first.
std::vector<image::MntEntry> entries_of(const DumpPlan& plan) {
  std::vector<image::MntEntry> entries;
  const auto& mounts = plan.mounts.mounts();
  for (auto mount = mounts.rbegin(); mount != mounts.rend(); ++mount) {
    auto& entry = entries.emplace_back();
    entry.set_mnt_id(static_cast<uint32_t>(mount->id));
    entry.set_parent_mnt_id(static_cast<uint32_t>(mount->parent));
    entry.set_fstype(mount->fstype == "tmpfs" ? image::TMPFS : image::UNSUPPORTED);
    entry.set_root_dev(mount->major << 20 | mount->minor);
    entry.set_root(mount->root);
    entry.set_mountpoint(mount->mountpoint);
    entry.set_options(mount->sb_options);
    entry.set_shared_id(static_cast<uint32_t>(mount->shared));
    entry.set_flags(mount->shared ? MS_SHARED : 0);
    if (auto key = plan.external_mounts.find(mount->id); key != plan.external_mounts.end())
      entry.set_ext_key(key->second);
  }
  return entries;
}

const image::MntEntry& entry(const std::vector<image::MntEntry>& entries, uint32_t id) {
  for (const auto& one : entries)
    if (one.mnt_id() == id) return one;
  FAIL("no entry " << id);
  return entries.front();
}

}  // namespace

TEST_CASE("what is taken into the image becomes the container's own") {
  DumpPlan plan;
  plan.mounts = MountTable::parse(
      "90 9 8:1 /c / rw - ext4 a rw\n"
      "91 90 8:2 /vol /vol rw shared:5 - ext4 b rw\n"
      "92 90 8:2 /vol/part /part rw - ext4 b rw\n"
      "93 90 8:2 /volume /kept rw - ext4 b rw\n"
      "94 90 8:2 /f//deleted /etc/f rw - ext4 b rw\n"
      "95 90 0:9 /x /shm rw shared:6 - tmpfs t rw,size=1k\n");
  plan.content_mounts = {{91, true}, {94, false}};
  plan.recreated_mounts = {95};
  plan.external_mounts = {{93, "/kept"}};
  auto host = MountTable::parse("1 0 8:2 / / rw shared:5 - ext4 b rw\n");
  std::vector<Entries> spaces{entries_of(plan)};
  auto taken = take_in(plan, host, spaces);
  const Entries& entries = spaces[0];

  REQUIRE(taken.size() == 3);
  const auto& volume = entry(entries, 91);
  CHECK(volume.fstype() == image::TMPFS);
  CHECK(volume.root() == "/");
  // Its peers are the host's, and it leaves them; those of /shm are its own.
  CHECK(volume.shared_id() == 0);
  CHECK((volume.flags() & MS_SHARED) == 0);
  CHECK(entry(entries, 95).shared_id() == 6);
  CHECK(entry(entries, 95).options() == "size=1k");
  // A part of it that is mounted elsewhere goes with it, a neighbour doesn't.
  CHECK(entry(entries, 92).root_dev() == volume.root_dev());
  CHECK(entry(entries, 92).root() == "/part");
  CHECK(entry(entries, 93).root() == "/volume");
  CHECK(entry(entries, 94).root() == "/f");
  std::set<uint32_t> devices;
  for (const auto& whole : taken) devices.insert(whole.device);
  CHECK(devices.size() == 3);

  auto tree = plan_tree(entries, devices);
  for (const auto& node : tree.nodes) {
    INFO(node.entry->mountpoint());
    switch (node.entry->mnt_id()) {
      case 91:
      case 95:
        CHECK(node.how == How::fresh);
        CHECK(node.subpath.empty());
        break;
      case 92:
        CHECK(node.how == How::bind);
        break;
      case 93:
        CHECK(node.how == How::external);
        break;
      case 94:
        CHECK(node.how == How::bind);
        CHECK(node.unseen == 0);
        CHECK(node.subpath == "f");
        break;
      default:
        break;
    }
  }
  // Without the data in the image there is nothing to make a lone file from.
  CHECK_THROWS_WITH(plan_tree(entries), Catch::Contains("/etc/f"));
}
