#include "oci/config.h"

#include <algorithm>

#include "base/text.h"
#include "oci/capability.h"
#include "oci/document.h"
#include "oci/text_file.h"

namespace stasis::oci {

namespace {

bool has(const std::vector<std::string>& list, std::string_view wanted) {
  return std::find(list.begin(), list.end(), wanted) != list.end();
}

ConfigMount parse_mount(const Node& node) {
  ConfigMount mount;
  auto destination = node.at("destination").as_string();
  if (destination.empty()) node.at("destination").fail("is empty");
  mount.destination = clean_path(destination);
  mount.type = node.string("type");
  mount.source = node.string("source");
  mount.options = node.strings("options");
  if (mount.bind() && mount.source.empty()) node.fail("a bind mount needs a \"source\"");
  return mount;
}

uint32_t id_number(const Node& node, std::string_view name) {
  uint64_t value = node.number(name);
  if (value > UINT32_MAX) node.at(name).fail("larger than 32 bits");
  return static_cast<uint32_t>(value);
}

std::vector<IdMapping> parse_mappings(const Node& linux_node, std::string_view name) {
  std::vector<IdMapping> mappings;
  if (auto list = linux_node.find(name))
    list->each([&](const Node& item) {
      mappings.push_back(
          {id_number(item, "containerID"), id_number(item, "hostID"), id_number(item, "size")});
    });
  return mappings;
}

void parse_process(const Node& node, Config& config) {
  config.terminal = node.boolean("terminal");
  auto capabilities = node.find("capabilities");
  if (!capabilities) return;
  // Runtimes pass over those that they don't know.
  for (const std::string& name : capabilities->strings("bounding"))
    if (auto number = capability_number(name)) config.capabilities |= uint64_t{1} << *number;
}

void parse_linux(const Node& node, Config& config) {
  if (auto list = node.find("namespaces"))
    list->each([&](const Node& item) {
      config.namespaces.push_back({item.at("type").as_string(), item.string("path")});
    });
  if (auto list = node.find("devices"))
    list->each([&](const Node& item) {
      config.devices.push_back({clean_path(item.at("path").as_string()), item.string("type")});
    });
  for (const auto& path : node.strings("maskedPaths"))
    config.masked_paths.push_back(clean_path(path));
  for (const auto& path : node.strings("readonlyPaths"))
    config.readonly_paths.push_back(clean_path(path));
  config.uid_mappings = parse_mappings(node, "uidMappings");
  config.gid_mappings = parse_mappings(node, "gidMappings");
  config.cgroups_path = node.string("cgroupsPath");
}

}  // namespace

// runc: the bind option wins over whatever type is written.
bool ConfigMount::bind() const {
  return type == "bind" || has(options, "bind") || has(options, "rbind");
}

bool ConfigMount::recursive() const { return has(options, "rbind"); }

bool ConfigMount::read_only() const {
  bool result = false;
  for (const std::string& option : options) {
    if (option == "ro" || option == "rro") result = true;
    if (option == "rw" || option == "rrw") result = false;
  }
  return result;
}

bool Config::has_namespace(std::string_view type) const {
  return std::any_of(namespaces.begin(), namespaces.end(),
                     [&](const auto& ns) { return ns.type == type; });
}

Config parse_config(std::string_view text, const std::string& bundle, const std::string& name) {
  Document document(text, name);
  Node top = document.root();
  // Absolute ones stay as written: with a symbolic link before a "..", cleaning
  // would name another place.
  auto from_bundle = [&](const std::string& path) {
    return path.starts_with('/') ? path : clean_path(bundle + "/" + path);
  };
  Config config;
  if (auto root = top.find("root")) {
    config.root_path = from_bundle(root->at("path").as_string());
    config.root_readonly = root->boolean("readonly");
  }
  config.hostname = top.string("hostname");
  if (auto process = top.find("process")) parse_process(*process, config);
  if (auto mounts = top.find("mounts"))
    mounts->each([&](const Node& item) {
      auto mount = parse_mount(item);
      if (mount.bind()) mount.source = from_bundle(mount.source);
      config.mounts.push_back(std::move(mount));
    });
  if (auto linux_node = top.find("linux")) parse_linux(*linux_node, config);
  if (auto annotations = top.find("annotations"))
    annotations->each_member([&](const std::string& key, const Node& value) {
      config.annotations[key] = value.as_string();
    });
  return config;
}

Config read_config(const std::string& bundle) {
  std::string path = bundle + "/config.json";
  return parse_config(read_text_file(path), bundle, path);
}

std::string clean_path(std::string_view path) {
  std::vector<std::string_view> parts;
  for (auto part : text::split(path, '/')) {
    if (part.empty() || part == ".") continue;
    if (part != "..")
      parts.push_back(part);
    else if (!parts.empty())
      parts.pop_back();
  }
  std::string clean;
  for (auto part : parts) {
    clean += '/';
    clean += part;
  }
  return clean.empty() ? "/" : clean;
}

}  // namespace stasis::oci
