#include "mountmap/overlay_layers.h"

#include <catch2/catch.hpp>

using namespace stasis::mountmap;

TEST_CASE("the layers of an overlay") {
  auto layers = overlay_layers("lowerdir=/a\\:b:/c::/data,upperdir=/u\\,v,workdir=/w,xino=off");
  REQUIRE(layers.size() == 5);
  CHECK(layers[0].path == "/a\\:b");
  CHECK(layers[2].path == "/data");
  CHECK(layers[3].option == "upperdir");
  CHECK(layers[3].path == "/u\\,v");
  CHECK(unescaped(layers[0].path) == "/a:b");
  CHECK(unescaped("/plain") == "/plain");
}
