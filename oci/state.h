// What runtimes say about a running container: the state JSON that hooks get
// on stdin, and the state.json that runc keeps for itself.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace stasis::oci {

// The specification's state, as a hook reads it.
struct State {
  std::string id, status, bundle;
  pid_t pid = 0;  // 0 where there is none (poststop); in createContainer the container's own 1
};
State parse_state(std::string_view text, const std::string& name = "state on stdin");

// runc's /run/runc/ID/state.json.
struct RuncState {
  std::string id;
  pid_t init_pid = 0;
  uint64_t init_start = 0;  // clock ticks after boot: tells a reused pid
  std::string created;
  std::string rootfs, bundle;
  std::map<std::string, std::string> cgroup_paths;       // controller ("" for v2) -> directory
  std::map<std::string, std::string> namespace_paths;    // "NEWNET" -> /proc/PID/ns/net
  std::map<std::string, std::string> joined_namespaces;  // "NEWNET" -> configured path
  std::vector<std::string> external_descriptors;         // readlinks of init's 0, 1, 2
  std::vector<std::string> device_paths;                 // runc's own list, defaults included
  std::vector<std::string> mask_paths;
  bool systemd_cgroups = false;
  bool has_cgroup_namespace = false;
};
RuncState parse_runc_state(std::string_view text, const std::string& name = "state.json");

constexpr std::string_view default_runc_root = "/run/runc";

// Throws Error for an id that is no file name: [A-Za-z0-9_+.-]+, not "." or "..".
void check_container_id(std::string_view id);

// The container as runc knows it. Throws where there is none of that id.
RuncState find_container(const std::string& id, const std::string& runc_root);

// All containers below `runc_root`, unreadable ones left out.
std::vector<RuncState> list_containers(const std::string& runc_root);

// Where those who run runc have it keep its containers: by itself and under podman and
// CRI-O in its default, under containerd and Docker in a directory for each namespace.
// And the one that `caller`, if that is a runc, was given by --root.
std::vector<std::string> runc_roots(pid_t caller = 0);

// Its init may have ended, and the pid been used again since runc wrote it down.
bool is_running(const RuncState& state);

// The running container with this init.
std::optional<RuncState> find_running(pid_t init, const std::vector<std::string>& runc_roots);

}  // namespace stasis::oci
