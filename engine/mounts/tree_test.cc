#include "engine/mounts/tree.h"

#include <catch2/catch.hpp>
#include <string>

#include "base/error.h"
#include "engine/mounts/fs_types.h"

using namespace stasis;
using namespace stasis::engine::mounts;

namespace {

// EntryList in mountinfo's order, turned into the image's.
class EntryList {
 public:
  explicit EntryList(uint32_t root_id = 1) {
    add(root_id, 0, "/", 100, "/srv/rootfs", image::UNSUPPORTED);
  }
  image::MntEntry& add(uint32_t id, uint32_t parent, const std::string& mountpoint, uint32_t dev,
                       const std::string& root = "/", image::Fstype type = image::TMPFS) {
    auto& entry = *list_.emplace(list_.begin());
    entry.set_mnt_id(id);
    entry.set_parent_mnt_id(parent);
    entry.set_mountpoint(mountpoint);
    entry.set_root_dev(dev);
    entry.set_root(root);
    entry.set_fstype(type);
    return entry;
  }
  const std::vector<image::MntEntry>& list() const { return list_; }

 private:
  std::vector<image::MntEntry> list_;
};

std::vector<std::string> order_of(const Tree& tree) {
  std::vector<std::string> result;
  result.reserve(tree.order.size());
  for (int i : tree.order) result.push_back(tree.nodes[i].entry->mountpoint());
  return result;
}

}  // namespace

TEST_CASE("each mount is made from what it shows") {
  EntryList entries;
  entries.add(2, 1, "/dev", 7);
  entries.add(3, 1, "/proc", 8, "/", image::PROC);
  entries.add(4, 3, "/proc/sys", 8, "/sys", image::PROC);
  entries.add(5, 3, "/proc/keys", 7, "/null").set_ext_key("/dev/null");
  entries.add(6, 1, "/vol", 100, "/srv/data", image::UNSUPPORTED).set_ext_key("vol");
  entries.add(7, 1, "/part", 100, "/srv/data/part", image::UNSUPPORTED);
  entries.add(8, 1, "/own", 100, "/srv/rootfs/own", image::UNSUPPORTED);
  auto tree = plan_tree(entries.list());
  CHECK(tree.nodes[0].how == How::root);
  CHECK(tree.nodes[1].how == How::fresh);
  CHECK(tree.nodes[3].how == How::bind);
  CHECK((tree.nodes[3].source == 2 && tree.nodes[3].subpath == "sys"));
  // The container's own null device masks, not the host's.
  CHECK((tree.nodes[4].how == How::bind && tree.nodes[4].source == 1));
  CHECK((tree.nodes[5].how == How::external && tree.nodes[5].key == "vol"));
  CHECK((tree.nodes[6].source == 5 && tree.nodes[6].subpath == "part"));
  CHECK((tree.nodes[7].source == 0 && tree.nodes[7].subpath == "own"));
}

TEST_CASE("what covers comes after what it covers; what is copied before its turn is planted") {
  EntryList entries;
  entries.add(2, 1, "/a", 7);  // covers the next one
  entries.add(3, 1, "/a/b", 8);
  entries.add(4, 1, "/copy", 9, "/sub");  // of the last one
  entries.add(5, 1, "/late", 9);
  entries.add(6, 1, "/again", 9);
  entries.add(7, 1, "/a/c", 8);  // a copy, covered by /a as well
  const auto& list = entries.list();
  Tree tree = plan_tree(list);
  CHECK(order_of(tree) ==
        std::vector<std::string>{"/", "/a/b", "/a/c", "/a", "/copy", "/late", "/again"});
  CHECK(tree.planted == std::set<int>{4});
  CHECK(tree.nodes[3].source == 4);
}

TEST_CASE("a tmpfs that is shown only in parts is made as a whole") {
  EntryList entries;
  entries.add(2, 1, "/a", 7, "/x/y");
  entries.add(3, 1, "/b", 7, "/z");
  const auto& list = entries.list();
  Tree tree = plan_tree(list, {7});
  REQUIRE(tree.unseen.size() == 1);
  CHECK(tree.unseen[0].parts == std::vector<int>{1, 2});
  CHECK((tree.nodes[1].unseen == 0 && tree.nodes[1].subpath == "x/y"));
  CHECK_THROWS_WITH(plan_tree(list), Catch::Contains("mounted nowhere else"));
}

TEST_CASE("namespaces have a tree each, and superblocks in common") {
  EntryList first, second(11);
  first.add(2, 1, "/a", 7);
  second.add(12, 11, "/b", 7, "/part");
  second.add(13, 11, "/own", 8);
  std::vector<const Entries*> spaces{&first.list(), &second.list()};
  Tree tree = plan_tree(spaces);
  CHECK(tree.roots == std::vector<int>{0, 2});
  CHECK((tree.nodes[2].how == How::bind && tree.nodes[2].source == 0));
  CHECK((tree.nodes[3].source == 1 && tree.nodes[3].subpath == "part"));
  CHECK(tree.nodes[4].how == How::fresh);
  CHECK(tree.planted == std::set<int>{0, 1});
}

TEST_CASE("an image of mounts that cannot be is refused by name") {
  EntryList entries;
  std::string wanted;
  SECTION("no parent") {
    entries.add(2, 77, "/a", 7);
    wanted = "/a (tmpfs): the mount it stands on is not in the table";
  }
  SECTION("parents in a circle") {
    entries.add(2, 3, "/a", 7);
    entries.add(3, 2, "/a", 8);
    wanted = "it would have to be there before itself";
  }
  SECTION("elsewhere than its parent") {
    entries.add(2, 1, "/a", 7);
    entries.add(3, 2, "/ab", 8);
    wanted = "/ab (tmpfs): it doesn't lie beneath the mount it stands on, /a (tmpfs)";
  }
  SECTION("a path that leads up") {
    entries.add(2, 1, "/a/../../etc", 7);
    wanted = "its mountpoint is no absolute path";
  }
  SECTION("a root that leads up") {
    entries.add(2, 1, "/a", 100, "/srv/rootfs/../../etc", image::UNSUPPORTED);
    wanted = "/a";
  }
  SECTION("an id twice") {
    entries.add(1, 1, "/a", 7);
    wanted = "its id 1 appears twice";
  }
  SECTION("two at one place") {
    entries.add(2, 1, "/a", 7);
    entries.add(3, 1, "/a", 8);
    wanted = "two mounts stand at the same place";
  }
  SECTION("a deleted file") {
    entries.add(2, 1, "/a", 7, "/gone").set_deleted(true);
    wanted = "it shows a file or directory that has been deleted";
  }
  SECTION("a part of something unknown") {
    entries.add(2, 1, "/a", 55, "/part", image::UNSUPPORTED);
    wanted = "that the container has mounted nowhere else";
  }
  SECTION("slaves of each other") {
    auto& first = entries.add(2, 1, "/a", 7);
    first.set_shared_id(1);
    first.set_master_id(2);
    auto& second = entries.add(3, 1, "/b", 7);
    second.set_shared_id(2);
    second.set_master_id(1);
    wanted = "slave of itself";
  }
  CHECK_THROWS_WITH(plan_tree(entries.list()), Catch::Contains(wanted));
}

TEST_CASE("options are split at commas outside of quotes") {
  auto options = split_options("size=65536k,,ro,context=\"u:r:t:s0:c1,c2\",x=");
  REQUIRE(options.size() == 4);
  CHECK((options[0].name == "size" && options[0].value == "65536k"));
  CHECK((options[1].name == "ro" && !options[1].value));
  CHECK((options[2].name == "context" && options[2].value == "u:r:t:s0:c1,c2"));
  CHECK((options[3].name == "x" && options[3].value == ""));
  options = split_options("mpol=bind:0-1,3,size=1m,5=6,mpol");
  REQUIRE(options.size() == 4);
  CHECK((options[0].name == "mpol" && options[0].value == "bind:0-1,3"));
  CHECK((options[2].name == "5" && options[3].name == "mpol"));
}
