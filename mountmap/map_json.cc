#include "mountmap/map_json.h"

namespace stasis::mountmap {

std::string_view name_of(MountClass kind) {
  switch (kind) {
    case MountClass::root:
      return "root";
    case MountClass::own:
      return "own";
    case MountClass::external:
      return "external";
    case MountClass::provided:
      return "provided";
    case MountClass::skipped:
      return "skipped";
  }
  return "";
}

std::string_view name_of(ExternalKind kind) {
  switch (kind) {
    case ExternalKind::none:
      return "";
    case ExternalKind::directory:
      return "directory";
    case ExternalKind::file:
      return "file";
    case ExternalKind::masked:
      return "masked";
    case ExternalKind::device:
      return "device";
    case ExternalKind::cgroup:
      return "cgroup";
  }
  return "";
}

std::string_view name_of(Action action) {
  switch (action) {
    case Action::keep:
      return "keep";
    case Action::remap:
      return "remap";
    case Action::content:
      return "content";
    case Action::recreate:
      return "recreate";
    case Action::skip:
      return "skip";
    case Action::refuse:
      return "refuse";
  }
  return "";
}

std::string_view name_of(Severity severity) {
  switch (severity) {
    case Severity::note:
      return "note";
    case Severity::warning:
      return "warning";
    case Severity::obstacle:
      return "obstacle";
  }
  return "";
}

nlohmann::json to_json(const FileIdentity& identity) {
  return {{"major", identity.major}, {"minor", identity.minor},
          {"inode", identity.inode}, {"born_ns", identity.born_ns},
          {"mount", identity.mount}, {"directory", identity.directory}};
}

FileIdentity identity_from(const oci::Node& node) {
  FileIdentity identity;
  identity.major = static_cast<unsigned>(node.number("major"));
  identity.minor = static_cast<unsigned>(node.number("minor"));
  identity.inode = node.number("inode");
  identity.born_ns = static_cast<int64_t>(node.number("born_ns"));
  identity.mount = node.number("mount");
  identity.directory = node.boolean("directory");
  return identity;
}

nlohmann::json to_json(const MapRow& row) {
  nlohmann::json json{{"mountpoint", row.mount.mountpoint},
                      {"class", name_of(row.kind)},
                      {"type", row.mount.fstype},
                      {"reason", row.reason}};
  // A row that comes from config.json alone stands for no live mount.
  if (row.mount.id != 0) {
    json["id"] = row.mount.id;
    json["parent"] = row.mount.parent;
    json["device"] = std::to_string(row.mount.major) + ":" + std::to_string(row.mount.minor);
    json["root"] = row.mount.root;
    if (row.mount.unique_id != 0) json["unique_id"] = row.mount.unique_id;
  }
  if (!row.source.empty()) json["source"] = row.source;
  if (!row.rule.empty()) {
    json["action"] = name_of(row.action);
    json["rule"] = row.rule;
  }
  if (!row.provided.provider.empty()) {
    json["provider"] = row.provided.provider;
    json["details"] = row.details;
  }
  if (!row.remapped.empty()) json["remapped"] = row.remapped;
  if (row.kind == MountClass::external) {
    json["kind"] = name_of(row.external);
    json["key"] = row.key;
    if (row.root.known()) json["identity"] = to_json(row.root);
  }
  return json;
}

nlohmann::json to_json(const MapFinding& finding) {
  return {{"severity", name_of(finding.severity)},
          {"subject", finding.subject},
          {"what", finding.what},
          {"remedy", finding.remedy}};
}

std::string dump_json(const nlohmann::json& value) {
  return value.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace stasis::mountmap
