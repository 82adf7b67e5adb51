// mountinfo and the map made of it. The text holds the host's table, then,
// after an empty line, the container's.
#include <cstddef>
#include <cstdint>
#include <set>
#include <string_view>

#include "base/error.h"
#include "mountmap/map_json.h"
#include "mountmap/mount_keys.h"

using namespace stasis::mountmap;

namespace {

void check_order(const MountTable& table) {
  std::set<int> seen;
  for (const auto& mount : table.mounts()) {
    if (mount.parent != mount.id && table.find(mount.parent) && !seen.contains(mount.parent))
      __builtin_trap();
    if (!seen.insert(mount.id).second) __builtin_trap();
  }
}

void check_keys(const MountTable& container, const MountTable& host, const KeyRequest& request) {
  KeyedMounts keyed = apply_keys(
      {.container = container, .host = host, .request = request, .look = [](const auto&) {
         return std::nullopt;
       }});
  for (const auto& [id, name] : keyed.external)
    if (!container.find(id) || keyed.skipped.contains(id)) __builtin_trap();
}

void check_map(const MountTable& container, const MountTable& host) {
  MountMap map = make_map({.container = container, .host = host, .resolve = {}});
  if (map.rows.size() != container.mounts().size()) __builtin_trap();
  for (const auto& row : map.rows) {
    if (row.reason.empty()) __builtin_trap();
    if ((row.kind == MountClass::external) == row.key.empty()) __builtin_trap();
    dump_json(to_json(row));
    check_keys(container, host, {.keys = {{row.mount.mountpoint, "key", ":"}}});
  }
  check_keys(container, host, {.skip = {"/a"}, .automatic = true});
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  size_t gap = text.find("\n\n");
  try {
    auto host = MountTable::parse(text.substr(0, gap));
    check_order(host);
    auto container = gap == text.npos ? host : MountTable::parse(text.substr(gap));
    check_order(container);
    check_order(container.below("/a"));
    check_map(container, host);
  } catch (const stasis::Error&) {
    return 0;
  }
  return 0;
}
