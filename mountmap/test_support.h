// For the tests of this room.
#pragma once

#include <catch2/catch.hpp>
#include <string_view>

#include "mountmap/mount_map.h"

namespace stasis::mountmap {

// The first row of that mountpoint.
inline const MapRow& at(const MountMap& map, std::string_view mountpoint) {
  for (const auto& row : map.rows)
    if (row.mount.mountpoint == mountpoint) return row;
  FAIL("no row of " << mountpoint);
  return map.rows.front();
}

}  // namespace stasis::mountmap
