#include "oci/state.h"

#include <fmt/core.h>

#include <algorithm>
#include <filesystem>

#include "base/text.h"
#include "kernel/directories.h"
#include "kernel/fs.h"
#include "kernel/proc_stat.h"
#include "oci/config.h"
#include "oci/document.h"
#include "oci/text_file.h"

namespace stasis::oci {

namespace {

pid_t pid_of(const Node& node, std::string_view name) {
  uint64_t pid = node.number(name);
  if (pid > INT32_MAX) node.at(name).fail("not a process id");
  return static_cast<pid_t>(pid);
}

std::map<std::string, std::string> string_map(const Node& node, std::string_view name) {
  std::map<std::string, std::string> map;
  if (auto member = node.find(name))
    member->each_member(
        [&](const std::string& key, const Node& value) { map[key] = value.as_string(); });
  return map;
}

void parse_runc_config(const Node& config, RuncState& state) {
  state.rootfs = config.string("rootfs");
  state.mask_paths = config.strings("mask_paths");
  if (auto cgroups = config.find("cgroups")) state.systemd_cgroups = cgroups->boolean("Systemd");
  for (const auto& label : config.strings("labels"))
    if (label.starts_with("bundle=")) state.bundle = label.substr(7);
  if (auto devices = config.find("devices"))
    devices->each([&](const Node& item) { state.device_paths.push_back(item.string("path")); });
  if (auto namespaces = config.find("namespaces"))
    namespaces->each([&](const Node& item) {
      auto type = item.at("type").as_string();
      if (type == "NEWCGROUP") state.has_cgroup_namespace = true;
      if (auto path = item.string("path"); !path.empty()) state.joined_namespaces[type] = path;
    });
}

}  // namespace

State parse_state(std::string_view text, const std::string& name) {
  Document document(text, name);
  Node top = document.root();
  State state;
  state.id = top.at("id").as_string();
  check_container_id(state.id);
  state.status = top.string("status");
  state.bundle = top.at("bundle").as_string();
  state.pid = pid_of(top, "pid");
  return state;
}

RuncState parse_runc_state(std::string_view text, const std::string& name) {
  Document document(text, name);
  Node top = document.root();
  RuncState state;
  state.id = top.at("id").as_string();
  check_container_id(state.id);
  top.at("init_process_pid");
  state.init_pid = pid_of(top, "init_process_pid");
  state.init_start = top.number("init_process_start");
  state.created = top.string("created");
  state.cgroup_paths = string_map(top, "cgroup_paths");
  state.namespace_paths = string_map(top, "namespace_paths");
  state.external_descriptors = top.strings("external_descriptors");
  parse_runc_config(top.at("config"), state);
  return state;
}

void check_container_id(std::string_view id) {
  auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '+' || c == '.' || c == '-';
  };
  if (id.empty() || id == "." || id == ".." || !std::all_of(id.begin(), id.end(), allowed))
    throw Error("use container id", "\"" + std::string(id) + "\"")
        .because("an id consists of letters, digits and _+.-");
}

RuncState find_container(const std::string& id, const std::string& runc_root) {
  check_container_id(id);
  std::string path = runc_root + "/" + id + "/state.json";
  std::string text;
  try {
    text = read_text_file(path);
  } catch (const Error& error) {
    if (error.code() != ENOENT && error.code() != ENOTDIR) throw;
    std::string remedy = "`runc list` shows what runs; another state directory is given by --root";
    for (const std::string& root : runc_roots())
      if (kernel::exists(fmt::format("{}/{}/state.json", root, id))) remedy = "give --root " + root;
    throw Error("find container", id).because("there is no " + path).hint(remedy);
  }
  RuncState state = parse_runc_state(text, path);
  if (state.id != id) throw Error("use", path).because("it is of container " + state.id);
  return state;
}

std::vector<RuncState> list_containers(const std::string& runc_root) {
  std::vector<RuncState> all;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(runc_root, error)) {
    try {
      all.push_back(find_container(entry.path().filename(), runc_root));
    } catch (const Error&) {
      // Half made, being deleted, or not runc's: not to be found here.
      continue;
    }
  }
  return all;
}

std::vector<std::string> runc_roots(pid_t caller) {
  std::vector<std::string> roots{std::string(default_runc_root)};
  std::error_code error;
  for (const char* all : {"/run/containerd/runc", "/run/docker/runtime-runc"})
    for (const auto& entry : std::filesystem::directory_iterator(all, error))
      roots.push_back(entry.path());
  if (caller <= 0) return roots;
  try {
    std::string line = kernel::read_file(fmt::format("/proc/{}/cmdline", caller));
    bool next = false;
    for (std::string_view word : text::split(line, '\0')) {
      if (next) roots.emplace_back(word);
      next = word == "--root" || word == "-root";
      if (word.starts_with("--root=")) roots.emplace_back(word.substr(7));
    }
  } catch (const Error&) {
    // Gone, or nobody that we may look at.
  }
  return roots;
}

bool is_running(const RuncState& state) {
  if (state.init_pid <= 0) return false;
  auto stat = kernel::find_stat(state.init_pid);
  return stat && stat->start_time == state.init_start && stat->state != 'Z' && stat->state != 'X';
}

std::optional<RuncState> find_running(pid_t init, const std::vector<std::string>& runc_roots) {
  for (const std::string& root : runc_roots)
    for (RuncState& state : list_containers(root))
      if (state.init_pid == init && is_running(state)) return std::move(state);
  return std::nullopt;
}

}  // namespace stasis::oci
