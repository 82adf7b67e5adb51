#include "engine/mounts/fs_types.h"

#include <algorithm>
#include <array>

namespace stasis::engine::mounts {

namespace {

struct FsType {
  std::string_view name;
  image::Fstype code;
  bool mountable;
};

constexpr std::array fs_types{
    FsType{"proc", image::PROC, true},
    FsType{"sysfs", image::SYSFS, true},
    FsType{"devtmpfs", image::DEVTMPFS, true},
    FsType{"binfmt_misc", image::BINFMT_MISC, true},
    FsType{"tmpfs", image::TMPFS, true},
    FsType{"devpts", image::DEVPTS, true},
    FsType{"simfs", image::SIMFS, false},
    FsType{"pstore", image::PSTORE, true},
    FsType{"securityfs", image::SECURITYFS, true},
    FsType{"fusectl", image::FUSECTL, true},
    FsType{"debugfs", image::DEBUGFS, true},
    FsType{"tracefs", image::TRACEFS, true},
    FsType{"cgroup", image::CGROUP, true},
    FsType{"cgroup2", image::CGROUP2, true},
    FsType{"aufs", image::AUFS, false},
    FsType{"mqueue", image::MQUEUE, true},
    FsType{"fuse", image::FUSE, false},
    FsType{"overlay", image::OVERLAYFS, false},
    FsType{"autofs", image::AUTOFS, false},
};

// Made by their name alone where the plan says that their content may be lost:
// there is no device or server behind them, and no option gives rights (as bpf's do).
constexpr std::array<std::string_view, 2> emptied{"hugetlbfs", "ramfs"};

}  // namespace

image::Fstype fstype_code(std::string_view name) {
  name = name.substr(0, name.find('.'));
  for (const auto& type : fs_types)
    if (type.name == name) return type.code;
  return image::UNSUPPORTED;
}

bool is_known_type(std::string_view name) {
  for (const auto& type : fs_types)
    if (type.name == name) return type.mountable;
  return std::find(emptied.begin(), emptied.end(), name) != emptied.end();
}

std::optional<std::string> mountable_type(const image::MntEntry& entry) {
  if (entry.fstype() == image::AUTO && !entry.fsname().empty()) return entry.fsname();
  for (const auto& type : fs_types)
    if (entry.fstype() == static_cast<uint32_t>(type.code) && type.mountable)
      return std::string(type.name);
  return std::nullopt;
}

std::string type_name(const image::MntEntry& entry) {
  if (!entry.fsname().empty()) return entry.fsname();
  for (const auto& type : fs_types)
    if (entry.fstype() == static_cast<uint32_t>(type.code)) return std::string(type.name);
  return {};
}

std::vector<MountOption> split_options(std::string_view options) {
  std::vector<MountOption> result;
  for (size_t at = 0; at < options.size();) {
    size_t end = at;
    for (bool quoted = false; end < options.size() && (quoted || options[end] != ','); ++end)
      if (options[end] == '"') quoted = !quoted;
    auto word = options.substr(at, end - at);
    at = end + 1;
    if (word.empty()) continue;
    // The nodes of a tmpfs's memory policy are listed with commas, too.
    MountOption* last = result.empty() ? nullptr : &result.back();
    if (last && last->name == "mpol" && isdigit(static_cast<unsigned char>(word.front()))) {
      last->value = last->value.value_or("") + "," + std::string(word);
      continue;
    }
    auto equals = word.find('=');
    MountOption option{std::string(word.substr(0, equals)), std::nullopt};
    if (equals != std::string_view::npos) {
      auto value = word.substr(equals + 1);
      if (value.size() > 1 && value.front() == '"' && value.back() == '"')
        value = value.substr(1, value.size() - 2);
      option.value = std::string(value);
    }
    result.push_back(std::move(option));
  }
  return result;
}

}  // namespace stasis::engine::mounts
