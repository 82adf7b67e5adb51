#include "hook/user_fit.h"

#include <catch2/catch.hpp>

#include "engine/image/golden.h"

using namespace stasis;
using namespace stasis::hook;
using Catch::Contains;

namespace {

image::Checkpoint mapped(uint32_t uid, uint32_t count) {
  auto checkpoint = image::load(image::ImageDir::of(image::golden("criu-4.2/demo")));
  // A number that isn't the dumper's own makes it the container's.
  checkpoint.tasks.front().ids.set_user_ns_id(99);
  image::UsernsEntry maps;
  for (auto* map : {maps.mutable_uid_map(), maps.mutable_gid_map()}) {
    auto& extent = *map->Add();
    extent.set_first(0);
    extent.set_lower_first(uid);
    extent.set_count(count);
  }
  checkpoint.userns = maps;
  return checkpoint;
}

oci::Config bundle(const std::string& linux_part) {
  return oci::parse_config("{\"root\": {\"path\": \"rootfs\"}, \"linux\": {" + linux_part + "}}",
                           "/b");
}

constexpr const char* with = R"("namespaces": [{"type": "user"}])";

}  // namespace

TEST_CASE("a bundle's user namespace must be the checkpoint's") {
  auto plain = image::load(image::ImageDir::of(image::golden("criu-4.2/demo")));
  CHECK(compare_users(plain, bundle("")).empty());
  auto added = compare_users(plain, bundle(with));
  REQUIRE(added.size() == 1);
  CHECK_THAT(added[0].what, Contains("isn't in the checkpoint"));

  auto own = mapped(100000, 10);
  REQUIRE(compare_users(own, bundle("")).size() == 1);
  CHECK_THAT(compare_users(own, bundle(""))[0].what, Contains("config.json has none"));
  std::string same = R"([{"containerID": 4, "hostID": 100004, "size": 6},
                         {"containerID": 0, "hostID": 100000, "size": 4}])";
  std::string other = R"([{"containerID": 0, "hostID": 0, "size": 10}])";
  auto maps = [&](const std::string& uids, const std::string& gids) {
    return bundle(std::string(with) + ", \"uidMappings\": " + uids + ", \"gidMappings\": " + gids);
  };
  CHECK(compare_users(own, maps(same, same)).empty());
  auto wrong = compare_users(own, maps(same, other));
  REQUIRE(wrong.size() == 1);
  CHECK(wrong[0].severity == mountmap::Severity::obstacle);
  CHECK_THAT(wrong[0].what, Contains("maps gids otherwise") &&
                                Contains("0 as 100000 (10 of them)") &&
                                Contains("0 as 0 (10 of them)"));
  CHECK_THAT(wrong[0].remedy, Contains("linux.gidMappings"));
  auto joined = compare_users(
      own,
      bundle(R"("namespaces": [{"type": "user", "path": "/proc/1/ns/user"}], "uidMappings": )" +
             same + ", \"gidMappings\": " + same));
  REQUIRE(joined.size() == 1);
  CHECK_THAT(joined[0].what, Contains("/proc/1/ns/user"));
}
