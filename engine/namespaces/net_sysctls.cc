#include "engine/namespaces/net_sysctls.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/syscall.h>

#include <algorithm>
#include <span>
#include <string>

#include "base/error.h"
#include "base/text.h"
#include "engine/namespaces/sysctl.h"
#include "kernel/call.h"
#include "kernel/fs.h"

namespace stasis::engine::net {
namespace {

using Entries = google::protobuf::RepeatedPtrField<image::SysctlEntry>;

// The format's order, which is all that tells the values apart.
constexpr const char* names4[] = {
    "accept_local",
    "accept_redirects",
    "accept_source_route",
    "arp_accept",
    "arp_announce",
    "arp_filter",
    "arp_ignore",
    "arp_notify",
    "bootp_relay",
    "disable_policy",
    "disable_xfrm",
    "force_igmp_version",
    "forwarding",
    "igmpv2_unsolicited_report_interval",
    "igmpv3_unsolicited_report_interval",
    "log_martians",
    "medium_id",
    "promote_secondaries",
    "proxy_arp",
    "proxy_arp_pvlan",
    "route_localnet",
    "rp_filter",
    "secure_redirects",
    "send_redirects",
    "shared_media",
    "src_valid_mark",
    "tag",
    "ignore_routes_with_linkdown",
    "drop_gratuitous_arp",
    "drop_unicast_in_l2_multicast",
};
constexpr const char* names6[] = {
    "accept_dad",
    "accept_ra",
    "accept_ra_defrtr",
    "accept_ra_from_local",
    "accept_ra_min_hop_limit",
    "accept_ra_mtu",
    "accept_ra_pinfo",
    "accept_ra_rt_info_max_plen",
    "accept_ra_rtr_pref",
    "accept_redirects",
    "accept_source_route",
    "autoconf",
    "dad_transmits",
    "disable_ipv6",
    "drop_unicast_in_l2_multicast",
    "drop_unsolicited_na",
    "force_mld_version",
    "force_tllao",
    "forwarding",
    "hop_limit",
    "ignore_routes_with_linkdown",
    "keep_addr_on_down",
    "max_addresses",
    "max_desync_factor",
    "mldv1_unsolicited_report_interval",
    "mldv2_unsolicited_report_interval",
    "mtu",
    "ndisc_notify",
    "optimistic_dad",
    "proxy_ndp",
    "regen_max_retry",
    "router_probe_interval",
    "router_solicitation_delay",
    "router_solicitation_interval",
    "router_solicitations",
    "stable_secret",
    "suppress_frag_ndisc",
    "temp_prefered_lft",
    "temp_valid_lft",
    "use_oif_addrs_only",
    "use_optimistic",
    "use_tempaddr",
};

constexpr std::string_view text_value = "stable_secret";
// Switches that the kernel sets others along with, and one that it sets.
constexpr std::string_view first = "forwarding", last = "accept_redirects";

struct Family {
  const char* folder;
  std::span<const char* const> names;
};
const Family ipv4{"ipv4", names4}, ipv6{"ipv6", names6};

std::string path_of(const Family& family, const std::string& target, const char* name) {
  return fmt::format("net/{}/conf/{}/{}", family.folder, target, name);
}

Sysctls::Files open_all(const Family& family, const std::string& target) {
  Sysctls::Files files(family.names.size());
  const std::string folder = fmt::format("/proc/sys/net/{}/conf/{}", family.folder, target);
  long fd = kernel::call(SYS_openat, AT_FDCWD, folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (fd == -ENOENT) return files;
  UniqueFd directory(static_cast<int>(kernel::must(fd, "open", folder)));
  for (size_t i = 0; i < files.size(); ++i) {
    const char* name = family.names[i];
    fd = kernel::call(SYS_openat, directory.get(), name, O_RDONLY | O_CLOEXEC);
    files[i].path = folder + "/" + name;
    if (fd != -ENOENT)  // this kernel may not have it
      files[i].fd.reset(static_cast<int>(kernel::must(fd, "open", files[i].path)));
  }
  return files;
}

void read(const Family& family, const Sysctls::Files& files, Entries* entries) {
  for (size_t i = 0; i < files.size(); ++i) {
    image::SysctlEntry& entry = *entries->Add();
    entry.set_type(family.names[i] == text_value ? image::CTL_STR : image::CTL_32);
    if (!files[i].fd.valid()) continue;
    auto value = sysctl::value_of(files[i].fd.get(), files[i].path);
    if (!value) continue;
    if (entry.type() == image::CTL_STR)
      entry.set_sarg(*value);
    else if (auto number = text::to_int<int32_t>(*value))
      entry.set_iarg(*number);
  }
}

bool is_address(const std::string& value) {
  return value.size() <= 40 && value.find_first_not_of("0123456789abcdefABCDEF:") == value.npos;
}

void restore_one(const Family& family, const std::string& target, const char* name,
                 const image::SysctlEntry& entry) {
  std::string value;
  if (name == text_value) {
    if (!entry.has_sarg() || entry.sarg().empty() || !is_address(entry.sarg())) return;
    value = entry.sarg();
  } else {
    if (!entry.has_iarg()) return;
    value = std::to_string(entry.iarg());
  }
  const std::string path = path_of(family, target, name);
  auto here = sysctl::find(path);
  if (name == text_value ? here != value : here && *here != value) sysctl::write(path, value);
}

void restore(const Family& family, const std::string& target, const Entries& entries) {
  size_t count = std::min(family.names.size(), static_cast<size_t>(entries.size()));
  auto pass = [&](auto wanted) {
    for (size_t i = 0; i < count; ++i)
      if (wanted(std::string_view(family.names[i])))
        restore_one(family, target, family.names[i], entries[static_cast<int>(i)]);
  };
  pass([](std::string_view name) { return name == first; });
  pass([](std::string_view name) { return name != first && name != last; });
  pass([](std::string_view name) { return name == last; });
}

}  // namespace

Sysctls::Sysctls() {
  for (const std::string& target : kernel::entries("/proc/sys/net/ipv4/conf"))
    targets_.emplace(target, open(target));
}

Sysctls::Families Sysctls::open(const std::string& target) {
  return {open_all(ipv4, target), open_all(ipv6, target)};
}

const Sysctls::Families& Sysctls::of(const std::string& target) const {
  auto found = targets_.find(target);
  if (found == targets_.end())
    throw Error("dump", "network interface " + target)
        .because("it was made while the container was looked at")
        .hint("Try again.");
  return found->second;
}

void Sysctls::read(image::NetnsEntry& settings) const {
  const Families &usual = of("default"), &all = of("all");
  net::read(ipv4, usual.ipv4, settings.mutable_def_conf4());
  net::read(ipv4, all.ipv4, settings.mutable_all_conf4());
  net::read(ipv6, usual.ipv6, settings.mutable_def_conf6());
  net::read(ipv6, all.ipv6, settings.mutable_all_conf6());
}

void Sysctls::read(image::NetDeviceEntry& loopback) const {
  net::read(ipv4, of("lo").ipv4, loopback.mutable_conf4());
  net::read(ipv6, of("lo").ipv6, loopback.mutable_conf6());
}

void Sysctls::read(image::LinkEntry& link) const {
  net::read(ipv4, of(link.name()).ipv4, link.mutable_conf4());
  net::read(ipv6, of(link.name()).ipv6, link.mutable_conf6());
}

void restore_sysctls(const image::NetnsEntry& settings) {
  restore(ipv4, "all", settings.all_conf4());
  restore(ipv4, "default", settings.def_conf4());
  restore(ipv6, "all", settings.all_conf6());
  restore(ipv6, "default", settings.def_conf6());
}

void restore_sysctls(const image::NetDeviceEntry& loopback) {
  restore(ipv4, "lo", loopback.conf4());
  restore(ipv6, "lo", loopback.conf6());
}

void restore_sysctls(const image::LinkEntry& link) {
  restore(ipv4, link.name(), link.conf4());
  restore(ipv6, link.name(), link.conf6());
}

}  // namespace stasis::engine::net
