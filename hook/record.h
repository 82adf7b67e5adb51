// What the createRuntime hook keeps of a container: its mount map, with the
// identity of every source at the time. /run/stasis/ID/mountmap.json.
// Names are unique within one root of one runtime only; whose a record is its
// container's init tells.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>

#include "mountmap/mount_map.h"

namespace stasis::hook {

constexpr std::string_view default_state_dir = "/run/stasis";

struct RecordedContainer {
  std::string id, bundle;
  pid_t init = 0;  // 0: it has ended
};

// The name's record is that of another container, which lives.
bool is_of_another(std::string_view state_dir, const RecordedContainer& container);

// Made and replaced atomically, for root alone.
void save_record(std::string_view state_dir, const RecordedContainer& container,
                 const mountmap::MountMap& map);

// The recorded sources. Nothing where there is no record of this container.
std::optional<mountmap::SourceRecord> load_record(std::string_view state_dir, const std::string& id,
                                                  pid_t init);

void remove_record(std::string_view state_dir, const std::string& id);

// Unless it is another's of the same name.
void remove_own_record(std::string_view state_dir, const RecordedContainer& container);

}  // namespace stasis::hook
