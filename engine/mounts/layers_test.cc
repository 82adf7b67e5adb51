#include "engine/mounts/layers.h"

#include <catch2/catch.hpp>
#include <string>
#include <utility>

#include "base/error.h"

using namespace stasis;
using namespace stasis::engine::mounts;

namespace {

image::MntEntry overlay(const std::string& options) {
  image::MntEntry entry;
  entry.set_fstype(image::OVERLAYFS);
  entry.set_options(options);
  entry.set_source("overlay");
  entry.set_root("/");
  return entry;
}

struct Line {
  std::string mountpoint;
  uint32_t parent = 1;  // the id is its place in the table, the root's 1
  std::string options;  // an overlay's
};

// In mountinfo's order, behind the root; the image has them the other way round.
Entries table(const std::vector<Line>& lines) {
  Entries entries;
  auto add = [&](const Line& line, image::MntEntry entry) {
    uint32_t id = static_cast<uint32_t>(entries.size()) + 1;
    entry.set_mnt_id(id);
    entry.set_root_dev(100 + id);
    entry.set_parent_mnt_id(line.parent);
    entry.set_mountpoint(line.mountpoint);
    entries.insert(entries.begin(), std::move(entry));
  };
  image::MntEntry root, tmpfs;
  root.set_root("/srv/rootfs");
  root.set_fstype(image::UNSUPPORTED);
  tmpfs.set_root("/");
  tmpfs.set_fstype(image::TMPFS);
  add({"/", 0, ""}, root);
  for (const Line& line : lines) add(line, line.options.empty() ? tmpfs : overlay(line.options));
  return entries;
}

}  // namespace

TEST_CASE("layers are told by their paths") {
  CHECK(layer_paths(overlay("lowerdir=/a\\:b:/c,upperdir=/d\\,e,workdir=/w,xino=off")) ==
        std::vector<std::string>{"/a:b", "/c", "/d,e", "/w"});
  CHECK(layer_paths(overlay("lowerdir+=/a,lowerdir+=/b,redirect_dir=on,index=off")).size() == 2);
  CHECK_THROWS_AS(layer_paths(overlay("lowerdir=a:/b")), Error);
  CHECK_THROWS_AS(layer_paths(overlay("lowerdir=/a/../b:/c")), Error);
  CHECK_THROWS_AS(layer_paths(overlay("xino=off")), Error);
  CHECK_THROWS_AS(layer_paths(overlay("lowerdir=/a:/b,index=on")), Error);
  CHECK_THROWS_AS(layer_paths(overlay("lowerdir=/a:/b,otherdir=/c")), Error);
  CHECK_THROWS_AS(layer_paths(overlay("lowerdir=/a:/" + std::string(5000, 'b'))), Error);
}

TEST_CASE("layers lie on what was there when the overlay was mounted") {
  // 2: the overlay stands on its own lower layer; 4: what covers its upper one came later.
  auto entries = table({{"/up", 1, ""},
                        {"/low", 1, "lowerdir=/low,upperdir=/up/u,workdir=/up/w"},
                        {"/up/u", 2, ""}});
  Tree tree = plan_tree(entries);
  REQUIRE(tree.nodes[2].layers.size() == 3);
  CHECK(tree.nodes[2].layers[0].node == 0);
  CHECK(tree.nodes[2].layers[1].node == 1);
  CHECK(tree.order == std::vector<int>{0, 1, 2, 3});
}

TEST_CASE("layers that can't be reached are refused") {
  // From the host, by whoever writes there.
  auto entries = table({{"/vol", 1, ""}, {"/o", 1, "lowerdir=/vol/a:/vol/b"}});
  entries[1].set_ext_key("vol");
  CHECK_THROWS_AS(plan_tree(entries), Error);
  // /a/low has to be there before /a covers it, and /a before the overlay that stands on it.
  entries = table({{"/a", 1, ""}, {"/a/o", 2, "lowerdir=/a/low:/b"}, {"/a/low", 1, ""}});
  CHECK(plan_tree(entries).nodes[2].layers[0].node == 1);
  entries = table({{"/a/low", 1, ""}, {"/a", 1, ""}, {"/a/o", 3, "lowerdir=/a/low:/b"}});
  CHECK(plan_tree(entries).nodes[3].layers[0].node == 2);
  // Another mount shows it that is there before.
  entries = table({{"/early", 1, ""}, {"/o", 1, "lowerdir=/a:/b"}});
  entries[1] = overlay("lowerdir=/a:/b");
  entries[1].set_mnt_id(2);
  entries[1].set_parent_mnt_id(1);
  entries[1].set_mountpoint("/early");
  entries[1].set_root("/part");
  entries[1].set_root_dev(entries[0].root_dev());
  CHECK_THROWS_AS(plan_tree(entries), Error);
}
