#include "rpc/option_names.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <utility>

#include "base/text.h"
#include "kernel/fs.h"
#include "rpc/config_file.h"

namespace stasis::rpc {
namespace {

template <typename Value>
using Named = std::pair<std::string_view, Value>;

using Flag = void (Options::*)(bool);
using Text = std::string* (Options::*)();  // mutable_x or add_x

constexpr auto flags = std::to_array<Named<Flag>>({
    {"auto-dedup", &Options::set_auto_dedup},
    {"display-stats", &Options::set_display_stats},
    {"enable-external-masters", &Options::set_ext_masters},
    {"enable-external-sharing", &Options::set_ext_sharing},
    {"evasive-devices", &Options::set_evasive_devices},
    {"ext-unix-sk", &Options::set_ext_unix_sk},
    {"file-locks", &Options::set_file_locks},
    {"force-irmap", &Options::set_force_irmap},
    {"lazy-pages", &Options::set_lazy_pages},
    {"leave-running", &Options::set_leave_running},
    {"leave-stopped", &Options::set_leave_stopped},
    {"link-remap", &Options::set_link_remap},
    {"mntns-compat-mode", &Options::set_mntns_compat_mode},
    {"orphan-pts-master", &Options::set_orphan_pts_master},
    {"restore-sibling", &Options::set_rst_sibling},
    {"shell-job", &Options::set_shell_job},
    {"skip-file-rwx-check", &Options::set_skip_file_rwx_check},
    {"skip-in-flight", &Options::set_tcp_skip_in_flight},
    {"tcp-close", &Options::set_tcp_close},
    {"tcp-established", &Options::set_tcp_established},
    {"track-mem", &Options::set_track_mem},
    {"unprivileged", &Options::set_unprivileged},
    {"weak-sysctls", &Options::set_weak_sysctls},
});

constexpr auto texts = std::to_array<Named<Text>>({
    {"cgroup-props", &Options::mutable_cgroup_props},
    {"cgroup-props-file", &Options::mutable_cgroup_props_file},
    {"cgroup-yard", &Options::mutable_cgroup_yard},
    {"freeze-cgroup", &Options::mutable_freeze_cgroup},
    {"lsm-mount-context", &Options::mutable_lsm_mount_context},
    {"lsm-profile", &Options::mutable_lsm_profile},
    {"prev-images-dir", &Options::mutable_parent_img},
    {"root", &Options::mutable_root},
    {"cgroup-dump-controller", &Options::add_cgroup_dump_controller},
    {"enable-fs", &Options::add_enable_fs},
    {"external", &Options::add_external},
    {"irmap-scan-path", &Options::add_irmap_scan_paths},
    {"skip-mnt", &Options::add_skip_mnt},
});

constexpr auto cgroup_modes = std::to_array<Named<CgroupMode>>({
    {"", DEFAULT},
    {"ignore", IGNORE},
    {"none", CG_NONE},
    {"props", PROPS},
    {"soft", SOFT},
    {"full", FULL},
    {"strict", STRICT},
});

// The entry's value, or null.
template <typename Table>
auto find(const Table& table, std::string_view name) -> decltype(&table[0].second) {
  for (const auto& [known, value] : table)
    if (known == name) return &value;
  return nullptr;
}

Error wrong_value(std::string_view option, const std::string& value) {
  return Error("understand the option", fmt::format("{} {}", option, value));
}

template <typename Int>
Int number(std::string_view option, const std::string& value) {
  auto result = text::to_int<Int>(value);
  if (!result) throw wrong_value(option, value).because("a number is expected");
  return *result;
}

uint32_t size_in_bytes(std::string_view option, std::string value) {
  uint64_t unit = 1;
  if (value.ends_with('K')) unit = 1 << 10;
  if (value.ends_with('M')) unit = 1 << 20;
  if (value.ends_with('G')) unit = 1 << 30;
  std::string digits = unit == 1 ? value : value.substr(0, value.size() - 1);
  uint64_t bytes = number<uint32_t>(option, digits) * unit;
  if (bytes > UINT32_MAX) throw wrong_value(option, value).because("too large");
  return static_cast<uint32_t>(bytes);
}

// "KEY:VALUE", cut at the first colon.
std::pair<std::string, std::string> pair_of(std::string_view option, const std::string& value) {
  size_t colon = value.find(':');
  if (colon == value.npos)
    throw wrong_value(option, value).because("two parts with a colon between are expected");
  return {value.substr(0, colon), value.substr(colon + 1)};
}

void apply_inherit_fd(Options& opts, const std::string& value) {
  size_t end = value.find("]:");
  if (!value.starts_with("fd[") || end == value.npos)
    throw wrong_value("inherit-fd", value).because("expected fd[NUMBER]:KEY");
  InheritFd& inherited = *opts.add_inherit_fd();
  inherited.set_fd(number<int>("inherit-fd", value.substr(3, end - 3)));
  inherited.set_key(value.substr(end + 2));
}

void apply_external_mount(Options& opts, const std::string& value) {
  if (value == "auto") {
    opts.set_auto_ext_mnt(true);
    return;
  }
  auto [key, name] = pair_of("ext-mount-map", value);
  ExternalMount& mount = *opts.add_ext_mnt();
  mount.set_key(key);
  mount.set_val(name);
}

void apply_cgroup_root(Options& opts, const std::string& value) {
  CgroupRoot& root = *opts.add_cg_root();
  if (value.starts_with('/')) {
    root.set_path(value);
    return;
  }
  auto [controller, path] = pair_of("cgroup-root", value);
  root.set_ctrl(controller);
  root.set_path(path);
}

void apply_join_ns(Options& opts, const std::string& value) {
  auto [kind, file] = pair_of("join-ns", value);
  JoinNamespace& join = *opts.add_join_ns();
  join.set_ns(kind);
  join.set_ns_file(file);
}

void apply_network_lock(Options& opts, const std::string& value) {
  if (value == "iptables")
    opts.set_network_lock(IPTABLES);
  else if (value == "nftables")
    opts.set_network_lock(NFTABLES);
  else if (value == "skip")
    opts.set_network_lock(SKIP);
  else
    throw wrong_value("network-lock", value).because("expected iptables, nftables or skip");
}

// Options with a value that isn't a plain text. True when it was one.
bool apply_valued(Settings& settings, std::string_view option, const std::string& value) {
  Options& opts = settings.opts;
  if (option == "images-dir") {
    opts.set_images_dir(value);
    opts.set_images_dir_fd(-1);
  } else if (option == "work-dir") {
    settings.work_dir = value;
  } else if (option == "log-file") {
    settings.log_path = value;
  } else if (option == "ghost-limit") {
    opts.set_ghost_limit(size_in_bytes(option, value));
  } else if (option == "timeout") {
    opts.set_timeout(number<uint32_t>(option, value));
  } else if (option == "empty-ns") {
    if (value != "net") throw wrong_value(option, value).because("only net can be left empty");
    opts.set_empty_ns(CLONE_NEWNET);
  } else if (option == "inherit-fd") {
    apply_inherit_fd(opts, value);
  } else if (option == "ext-mount-map") {
    apply_external_mount(opts, value);
  } else if (option == "cgroup-root") {
    apply_cgroup_root(opts, value);
  } else if (option == "join-ns") {
    apply_join_ns(opts, value);
  } else if (option == "network-lock") {
    apply_network_lock(opts, value);
  } else {
    return false;
  }
  return true;
}

}  // namespace

void apply_option(Settings& settings, std::string_view option, const std::string& argument) {
  std::string value = argument;
  if (size_t equals = option.find('='); equals != option.npos) {
    value = option.substr(equals + 1);
    option = option.substr(0, equals);
  }
  Options& opts = settings.opts;
  bool off = option.starts_with("no-");
  if (const Flag* set = find(flags, off ? option.substr(3) : option)) {
    if (!value.empty()) throw wrong_value(option, value).because("it takes no value");
    (opts.**set)(!off);
  } else if (option == "manage-cgroups") {
    const CgroupMode* mode = find(cgroup_modes, value);
    if (!mode)
      throw wrong_value(option, value)
          .because("expected ignore, none, props, soft, full or strict");
    opts.set_manage_cgroups_mode(*mode);
  } else if (option == "verbosity") {
    opts.set_log_level(value.empty() ? 4 : number<int>(option, value));
  } else if (const Text* place = find(texts, option); place && !value.empty()) {
    *(opts.**place)() = value;
  } else if (value.empty() || !apply_valued(settings, option, value)) {
    throw wrong_value(option, value)
        .because(value.empty() ? "no such option without a value" : "no such option")
        .hint("the options are those of criu(8), without their dashes");
  }
}

void apply_config_file(Settings& settings, const std::string& path) {
  long opened = kernel::call(SYS_openat, AT_FDCWD, path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (opened == -ENOENT || opened == -ENOTDIR) return;
  UniqueFd file(static_cast<int>(kernel::must(opened, "open", path)));
  struct statx info = kernel::stat_fd(file.get());
  if (!S_ISREG(info.stx_mode) || (info.stx_uid != 0 && info.stx_uid != geteuid()) ||
      (info.stx_mode & (S_IWGRP | S_IWOTH)) != 0)
    throw Error("use the configuration file", path)
        .because("it isn't a file that belongs to root and is writable by nobody else")
        .hint("chown root " + path + " && chmod go-w " + path);
  for (const ConfigLine& line : parse_config(kernel::read_all(file.get(), path, 1 << 20), path))
    apply_option(settings, line.option, line.value);
}

}  // namespace stasis::rpc
