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
#include <vector>

#include "base/text.h"
#include "kernel/fs.h"
#include "rpc/config_file.h"

namespace stasis::rpc {
namespace {

constexpr auto cgroup_modes = std::to_array<std::pair<std::string_view, CgroupMode>>({
    {"", DEFAULT},
    {"ignore", IGNORE},
    {"none", CG_NONE},
    {"props", PROPS},
    {"soft", SOFT},
    {"full", FULL},
    {"strict", STRICT},
});

Error wrong_value(std::string_view option, const std::string& value) {
  return Error("understand the option", fmt::format("{} {}", option, value));
}

template <typename Int>
Int number(std::string_view option, const std::string& value) {
  auto result = text::to_int<Int>(value);
  if (!result) throw wrong_value(option, value).because("a number is expected");
  return *result;
}

uint32_t size_in_bytes(std::string_view option, const std::string& value) {
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

void tree(Settings& s, const std::string& value) {
  s.opts.set_pid(number<int>("tree", value));
  if (s.opts.pid() <= 0) throw wrong_value("tree", value).because("a process id is expected");
}

void images_dir(Settings& s, const std::string& value) {
  s.opts.set_images_dir(value);
  s.opts.set_images_dir_fd(-1);
}

void inherit_fd(Settings& s, const std::string& value) {
  size_t end = value.find("]:");
  if (!value.starts_with("fd[") || end == value.npos)
    throw wrong_value("inherit-fd", value).because("expected fd[NUMBER]:KEY");
  InheritFd& inherited = *s.opts.add_inherit_fd();
  inherited.set_fd(number<int>("inherit-fd", value.substr(3, end - 3)));
  inherited.set_key(value.substr(end + 2));
}

void ext_mount_map(Settings& s, const std::string& value) {
  if (value == "auto") {
    s.opts.set_auto_ext_mnt(true);
    return;
  }
  auto [key, name] = pair_of("ext-mount-map", value);
  ExternalMount& mount = *s.opts.add_ext_mnt();
  mount.set_key(key);
  mount.set_val(name);
}

void ext_unix_sk(Settings& s, const std::string& value) {
  s.opts.set_ext_unix_sk(true);
  if (value.empty()) return;
  for (std::string_view inode : text::split(value, ','))
    s.opts.add_unix_sk_ino()->set_inode(number<uint32_t>("ext-unix-sk", std::string(inode)));
}

void cgroup_root(Settings& s, const std::string& value) {
  CgroupRoot& root = *s.opts.add_cg_root();
  if (value.starts_with('/')) {
    root.set_path(value);
    return;
  }
  auto [controller, path] = pair_of("cgroup-root", value);
  root.set_ctrl(controller);
  root.set_path(path);
}

void manage_cgroups(Settings& s, const std::string& value) {
  for (const auto& [name, mode] : cgroup_modes) {
    if (name != value) continue;
    s.opts.set_manage_cgroups_mode(mode);
    return;
  }
  throw wrong_value("manage-cgroups", value)
      .because("expected ignore, none, props, soft, full or strict");
}

void join_ns(Settings& s, const std::string& value) {
  auto [kind, file] = pair_of("join-ns", value);
  JoinNamespace& join = *s.opts.add_join_ns();
  join.set_ns(kind);
  join.set_ns_file(file);
}

void empty_ns(Settings& s, const std::string& value) {
  if (value != "net") throw wrong_value("empty-ns", value).because("only net can be left empty");
  s.opts.set_empty_ns(CLONE_NEWNET);
}

void network_lock(Settings& s, const std::string& value) {
  if (value == "iptables")
    s.opts.set_network_lock(IPTABLES);
  else if (value == "nftables")
    s.opts.set_network_lock(NFTABLES);
  else if (value == "skip" || value == "none")
    s.opts.set_network_lock(SKIP);
  else
    throw wrong_value("network-lock", value).because("expected iptables, nftables or skip");
}

void pre_dump_mode(Settings& s, const std::string& value) {
  if (value != "splice" && value != "read")
    throw wrong_value("pre-dump-mode", value).because("expected splice or read");
  s.opts.set_pre_dump_mode(value == "read" ? VM_READ : SPLICE);
}

void file_validation(Settings&, const std::string& value) {
  // Without a build id in the image the size is what remains, for CRIU, too.
  if (value != "filesize" && value != "buildid")
    throw wrong_value("file-validation", value).because("expected filesize or buildid");
}

// Each -v is one more; so many of them in one word are "vvv", a number sets it.
void verbosity(Settings& s, const std::string& value) {
  bool more = value.find_first_not_of('v') == value.npos;
  int level = s.opts.log_level() + 1 + static_cast<int>(value.size());
  if (!more) level = text::to_int<int>(value).value_or(0);
  s.opts.set_log_level(level);
}

void veth_pair(Settings& s, const std::string& value) {
  size_t equals = value.find('=');
  if (equals == value.npos) throw wrong_value("veth-pair", value).because("expected IN=OUT");
  VethPair& pair = *s.opts.add_veths();
  pair.set_if_in(value.substr(0, equals));
  pair.set_if_out(value.substr(equals + 1));
}

void page_server(Settings& s, const std::string&) { s.opts.mutable_ps(); }
void close_fd(Settings&, const std::string& value) { ::close(number<int>("close", value)); }
void ghost_limit(Settings& s, const std::string& value) {
  s.opts.set_ghost_limit(size_in_bytes("ghost-limit", value));
}
void timeout(Settings& s, const std::string& value) {
  s.opts.set_timeout(number<uint32_t>("timeout", value));
}
void status_fd(Settings& s, const std::string& value) {
  s.opts.set_status_fd(number<int>("status-fd", value));
}
void feature(Settings& s, const std::string& value) { s.features.push_back(value); }

// What only allows or advises something that stasis does or doesn't need
// anyway, or what concerns a part of CRIU that was refused already.
void nothing_to_do(Settings&, const std::string&) {}

// Named by apply_option().
void refuse(Settings&, const std::string&) {
  throw Error("honour", "").because("stasis doesn't support it yet").hint("leave it out");
}

using S = Settings;
using Text = OptionName::Text;  // tells which of the overloads
constexpr auto no = Argument::none;
constexpr auto needs = Argument::required;
constexpr auto may = Argument::optional;

// clang-format off
const auto names = std::to_array<OptionName>({
    {"action-script", 0, needs, &refuse},
    {"address", 0, needs, &nothing_to_do},
    {"all", 0, no, &nothing_to_do},
    {"allow-uprobes", 0, no, &S::ignored},
    {"aufs", 0, no, &S::aufs},
    {"aufs-ref", 0, needs, &S::aufs_ref},
    {"aufs-root", 0, needs, &S::aufs_root},
    {"auto-dedup", 0, no, &Options::set_auto_dedup},
    {"cgroup-dump-controller", 0, needs, Text{&Options::add_cgroup_dump_controller}},
    {"cgroup-props", 0, needs, &Options::mutable_cgroup_props},
    {"cgroup-props-file", 0, needs, &Options::mutable_cgroup_props_file},
    {"cgroup-root", 0, needs, &cgroup_root},
    {"cgroup-yard", 0, needs, &Options::mutable_cgroup_yard},
    {"close", 0, needs, &close_fd},
    {"config", 0, needs, &nothing_to_do},  // read before all others
    {"cpu-cap", 0, may, &refuse},
    {"daemon", 0, no, &S::detach},
    {"deprecated", 0, no, &S::ignored},
    {"display-stats", 0, no, &Options::set_display_stats},
    {"empty-ns", 0, needs, &empty_ns},
    {"enable-external-masters", 0, no, &Options::set_ext_masters},
    {"enable-external-sharing", 0, no, &Options::set_ext_sharing},
    {"enable-fs", 0, needs, Text{&Options::add_enable_fs}},
    {"evasive-devices", 0, no, &Options::set_evasive_devices},
    {"exec-cmd", 0, no, &refuse},
    {"experimental", 0, no, &S::ignored},
    {"ext-mount-map", 'M', needs, &ext_mount_map},
    {"ext-unix-sk", 'x', may, &ext_unix_sk},
    {"external", 0, needs, Text{&Options::add_external}},
    {"extra", 0, no, &S::ignored},
    {"feature", 0, needs, &feature},
    {"file-locks", 'l', no, &Options::set_file_locks},
    {"file-validation", 0, needs, &file_validation},
    {"force-irmap", 0, no, &Options::set_force_irmap},
    {"freeze-cgroup", 0, needs, &Options::mutable_freeze_cgroup},
    {"ghost-fiemap", 0, no, &S::ignored},
    {"ghost-limit", 0, needs, &ghost_limit},
    {"help", 'h', no, &S::help},
    {"images-dir", 'D', needs, &images_dir},
    {"inherit-fd", 0, needs, &inherit_fd},
    {"irmap-scan-path", 0, needs, Text{&Options::add_irmap_scan_paths}},
    {"join-ns", 'J', needs, &join_ns},
    {"lazy-pages", 0, no, &Options::set_lazy_pages},
    {"leave-running", 'R', no, &Options::set_leave_running},
    {"leave-stopped", 's', no, &Options::set_leave_stopped},
    {"libdir", 'L', needs, &S::plugins},
    {"link-remap", 0, no, &Options::set_link_remap},
    {"log-file", 'o', needs, &S::log_path},
    {"log-pid", 0, no, &S::ignored},
    {"lsm-mount-context", 0, needs, &Options::mutable_lsm_mount_context},
    {"lsm-profile", 0, needs, &Options::mutable_lsm_profile},
    {"manage-cgroups", 0, may, &manage_cgroups},
    {"mntns-compat-mode", 0, no, &Options::set_mntns_compat_mode},
    {"ms", 0, no, &refuse},
    {"network-lock", 0, needs, &network_lock},
    {"no-default-config", 0, no, &nothing_to_do},  // looked for before all others
    {"orphan-pts-master", 0, no, &Options::set_orphan_pts_master},
    {"page-server", 0, no, &page_server},
    {"pidfile", 0, needs, &S::pidfile},
    {"port", 0, needs, &nothing_to_do},
    {"pre-dump-mode", 0, needs, &pre_dump_mode},
    {"prev-images-dir", 0, needs, &Options::mutable_parent_img},
    {"ps-socket", 0, needs, &nothing_to_do},
    {"restore-detached", 'd', no, &S::detach},
    {"restore-sibling", 'S', no, &Options::set_rst_sibling},
    {"root", 'r', needs, &Options::mutable_root},
    {"shell-job", 'j', no, &Options::set_shell_job},
    {"skip-file-rwx-check", 0, no, &Options::set_skip_file_rwx_check},
    {"skip-in-flight", 0, no, &Options::set_tcp_skip_in_flight},
    {"skip-mnt", 0, needs, Text{&Options::add_skip_mnt}},
    {"status-fd", 0, needs, &status_fd},
    {"stream", 0, no, &refuse},
    {"tcp-close", 0, no, &Options::set_tcp_close},
    {"tcp-established", 0, no, &Options::set_tcp_established},
    {"timeout", 0, needs, &timeout},
    {"tls", 0, no, &Options::set_tls},
    {"tls-cacert", 0, needs, &Options::mutable_tls_cacert},
    {"tls-cacrl", 0, needs, &Options::mutable_tls_cacrl},
    {"tls-cert", 0, needs, &Options::mutable_tls_cert},
    {"tls-key", 0, needs, &Options::mutable_tls_key},
    {"tls-no-cn-verify", 0, no, &Options::set_tls_no_cn_verify},
    {"track-mem", 0, no, &Options::set_track_mem},
    {"tree", 't', needs, &tree},
    {"unprivileged", 0, no, &Options::set_unprivileged},
    {"verbosity", 'v', may, &verbosity},
    {"version", 'V', no, &S::version},
    {"veth-pair", 0, needs, &veth_pair},
    {"weak-sysctls", 0, no, &Options::set_weak_sysctls},
    {"work-dir", 'W', needs, &S::work_dir},
});
// clang-format on

const OptionName& find(std::string_view wanted, bool& off) {
  off = false;
  for (const OptionName& option : names)
    if (option.name == wanted) return option;
  off = wanted.starts_with("no-");
  std::vector<std::string> known;
  for (const OptionName& option : names) {
    if (off && option.negatable() && option.name == wanted.substr(3)) return option;
    known.emplace_back(option.name);
  }
  throw Error("understand the option", std::string(wanted))
      .because("no such option" + text::did_you_mean(wanted, known))
      .hint("the options are those of criu(8)");
}

struct Apply {
  Settings& settings;
  const std::string& value;
  bool off;

  void operator()(OptionName::Flag set) const { (settings.opts.*set)(!off); }
  void operator()(OptionName::Switch place) const { settings.*place = !off; }
  void operator()(OptionName::Text place) const { *(settings.opts.*place)() = value; }
  void operator()(OptionName::Word place) const { settings.*place = value; }
  void operator()(OptionName::Action action) const { action(settings, value); }
};

}  // namespace

std::span<const OptionName> option_names() { return names; }

void apply_option(Settings& settings, std::string_view option, const std::string& argument) {
  std::string value = argument;
  if (size_t equals = option.find('='); equals != option.npos) {
    value = option.substr(equals + 1);
    option = option.substr(0, equals);
  }
  bool off = false;
  const OptionName& known = find(option, off);
  if (known.argument == Argument::none && !value.empty())
    throw wrong_value(option, value).because("it takes no value");
  if (known.argument == Argument::required && value.empty())
    throw wrong_value(option, value).because("it needs a value");
  try {
    std::visit(Apply{settings, value, off}, known.what);
  } catch (Error& error) {
    if (!error.subject().empty()) throw;
    throw Error(error.operation(), "--" + std::string(option))
        .because(error.cause())
        .hint(error.remedy());
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
