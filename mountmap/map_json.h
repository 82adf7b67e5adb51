// The mount map as JSON: what `stasis plan --json` prints and the hook keeps.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

#include "mountmap/mount_map.h"
#include "oci/document.h"

namespace stasis::mountmap {

std::string_view name_of(MountClass kind);    // "root", "own", "external", "skipped"
std::string_view name_of(ExternalKind kind);  // "directory", ... "" for none
std::string_view name_of(Action action);      // as in the policy file
std::string_view name_of(Severity severity);  // "note", "warning", "obstacle"

nlohmann::json to_json(const MapRow& row);
nlohmann::json to_json(const MapFinding& finding);
nlohmann::json to_json(const FileIdentity& identity);
FileIdentity identity_from(const oci::Node& node);

// Text for machines and files. Bytes that aren't UTF-8 (a path may hold any)
// become replacement characters.
std::string dump_json(const nlohmann::json& value);

}  // namespace stasis::mountmap
