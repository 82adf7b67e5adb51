// What the createRuntime hook keeps of a container: its mount map, with the
// identity of every source at the time. /run/stasis/ID/mountmap.json.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "mountmap/mount_map.h"

namespace stasis::hook {

constexpr std::string_view default_state_dir = "/run/stasis";

// Made and replaced atomically, for root alone.
void save_record(std::string_view state_dir, const std::string& id, const std::string& bundle,
                 const mountmap::MountMap& map);

// The recorded sources. Nothing where there is no record, or none of this boot.
std::optional<mountmap::SourceRecord> load_record(std::string_view state_dir,
                                                  const std::string& id);

void remove_record(std::string_view state_dir, const std::string& id);

}  // namespace stasis::hook
