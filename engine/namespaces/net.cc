#include "engine/namespaces/net.h"

#include <fmt/core.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <cstring>

#include "base/text.h"
#include "engine/namespaces/sysctl.h"
#include "kernel/fs.h"

namespace stasis::engine::net {
namespace {

constexpr char loopback[] = "lo";
const std::string ping_groups = "net/ipv4/ping_group_range";
const std::string datagram_queue = "net/unix/max_dgram_qlen";

UniqueFd interface_socket() {
  long fd = kernel::call(SYS_socket, AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  return UniqueFd(static_cast<int>(kernel::must(fd, "open", "a socket")));
}

ifreq request() {
  ifreq r{};
  memcpy(r.ifr_name, loopback, sizeof loopback);
  return r;
}

void ask(int socket, unsigned long what, ifreq& r, const char* operation) {
  kernel::must(kernel::call(SYS_ioctl, socket, what, &r), operation, "network interface lo");
}

}  // namespace

image::NetDeviceEntry read_loopback() {
  UniqueFd socket = interface_socket();
  image::NetDeviceEntry device;
  device.set_type(image::LOOPBACK);
  device.set_name(loopback);
  ifreq r = request();
  ask(socket.get(), SIOCGIFINDEX, r, "look at");
  device.set_ifindex(static_cast<uint32_t>(r.ifr_ifindex));
  ask(socket.get(), SIOCGIFMTU, r, "look at");
  device.set_mtu(static_cast<uint32_t>(r.ifr_mtu));
  ask(socket.get(), SIOCGIFFLAGS, r, "look at");
  device.set_flags(static_cast<uint16_t>(r.ifr_flags));
  return device;
}

void restore_loopback(const image::NetDeviceEntry& device) {
  UniqueFd socket = interface_socket();
  ifreq r = request();
  ask(socket.get(), SIOCGIFMTU, r, "look at");
  if (static_cast<uint32_t>(r.ifr_mtu) != device.mtu()) {
    r.ifr_mtu = static_cast<int>(device.mtu());
    ask(socket.get(), SIOCSIFMTU, r, "set the MTU of");
  }
  ask(socket.get(), SIOCGIFFLAGS, r, "look at");
  const bool up = (device.flags() & IFF_UP) != 0;
  if (up == ((r.ifr_flags & IFF_UP) != 0)) return;
  r.ifr_flags = static_cast<short>(up ? r.ifr_flags | IFF_UP : r.ifr_flags & ~IFF_UP);
  ask(socket.get(), SIOCSIFFLAGS, r, up ? "bring up" : "take down");
}

void bring_loopback_up() {
  image::NetDeviceEntry device = read_loopback();
  device.set_flags(device.flags() | IFF_UP);
  restore_loopback(device);
}

image::NetnsEntry read_settings() {
  image::NetnsEntry settings;
  if (auto range = sysctl::find(ping_groups)) {
    image::SysctlEntry* entry = settings.add_ipv4_sysctl();
    entry->set_type(image::CTL_STR);
    entry->set_sarg(*range);
  }
  if (auto length = sysctl::find(datagram_queue)) {
    auto value = text::to_int<int32_t>(*length);
    if (!value)
      throw Error("read", "/proc/sys/" + datagram_queue)
          .because("unexpected value \"" + *length + '"');
    image::SysctlEntry* entry = settings.add_unix_conf();
    entry->set_type(image::CTL_32);
    entry->set_iarg(*value);
  }
  return settings;
}

void restore_settings(const image::NetnsEntry& settings) {
  auto write = [](const std::string& name, const std::string& value) {
    auto here = sysctl::find(name);
    if (here && text::words(*here) != text::words(value)) sysctl::write(name, value);
  };
  if (settings.ipv4_sysctl_size() == 1 && settings.ipv4_sysctl(0).has_sarg())
    write(ping_groups, settings.ipv4_sysctl(0).sarg());
  if (settings.unix_conf_size() == 1 && settings.unix_conf(0).has_iarg())
    write(datagram_queue, std::to_string(settings.unix_conf(0).iarg()));
}

}  // namespace stasis::engine::net
