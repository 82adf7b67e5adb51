#include "engine/namespaces/routes.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <thread>

#include "engine/namespaces/firewall.h"
#include "engine/namespaces/net.h"
#include "engine/namespaces/net_sysctls.h"
#include "engine/namespaces/route_link.h"
#include "engine/namespaces/sysctl.h"
#include "engine/scratch_test.h"
#include "kernel/fs.h"

using namespace stasis;
using namespace stasis::engine;
using Catch::Contains;

namespace {

bool root() { return geteuid() == 0; }

template <typename Action>
void in_fresh_network(Action action) {
  std::exception_ptr failure;
  std::thread([&] {
    try {
      kernel::must(kernel::call(SYS_unshare, CLONE_NEWNET), "unshare");
      action();
    } catch (...) {
      failure = std::current_exception();
    }
  }).join();
  if (failure) std::rethrow_exception(failure);
}

std::string address_message(const char* address, uint8_t prefix) {
  struct {
    nlmsghdr header{};
    ifaddrmsg head{};
    rtattr attribute{};
    in_addr address{};
  } message;
  message.header.nlmsg_len = sizeof message;
  message.header.nlmsg_type = RTM_NEWADDR;
  message.head.ifa_family = AF_INET;
  message.head.ifa_prefixlen = prefix;
  message.head.ifa_index = 1;
  message.attribute.rta_len = RTA_LENGTH(sizeof(in_addr));
  message.attribute.rta_type = IFA_LOCAL;
  inet_pton(AF_INET, address, &message.address);
  return {reinterpret_cast<const char*>(&message), sizeof message};
}

std::vector<std::string> addresses() {
  net::RouteLink link;
  ifaddrmsg any{};
  any.ifa_family = AF_INET;
  std::vector<std::string> found;
  for (const std::string& message :
       link.list(RTM_GETADDR, {reinterpret_cast<const char*>(&any), sizeof any})) {
    char text[64];
    inet_ntop(AF_INET, net::attribute(message, sizeof any, IFA_LOCAL).data(), text, sizeof text);
    found.push_back(fmt::format("{}/{}", text, net::head_of<ifaddrmsg>(message).ifa_prefixlen));
  }
  return found;
}

}  // namespace

TEST_CASE("addresses of loopback come back, and those that were removed don't") {
  if (!root()) return;
  Scratch directory;
  image::Checkpoint checkpoint;
  checkpoint.tasks.resize(1);
  checkpoint.tasks[0].ids.set_net_ns_id(9);
  in_fresh_network([&] {
    net::bring_loopback_up();
    image::ImageWriter writer(directory.fd());
    net::dump_routes(true, {1}, 8, writer);  // as the kernel makes it: nothing to write
    net::RouteLink link;
    CHECK(link.request(address_message("10.1.2.3", 32), NLM_F_CREATE | NLM_F_EXCL) == 0);
    CHECK(link.request(address_message("10.1.2.3", 32), NLM_F_CREATE | NLM_F_EXCL) == -EEXIST);
    std::string gone = address_message("127.0.0.1", 8);
    uint16_t removal = RTM_DELADDR;
    memcpy(gone.data() + offsetof(nlmsghdr, nlmsg_type), &removal, sizeof removal);
    CHECK(link.request(gone, 0) == 0);
    net::dump_routes(true, {1}, 9, writer);
    image::InventoryEntry inventory;
    inventory.set_img_version(image::image_version);
    writer.flush();
    writer.publish(inventory);
  });
  checkpoint.dir = image::ImageDir::open(directory.fd());
  CHECK(checkpoint.dir.has("ifaddr-9"));
  CHECK_FALSE(checkpoint.dir.has("ifaddr-8"));
  CHECK_FALSE(checkpoint.dir.has("rule-9"));
  in_fresh_network([&] {
    net::bring_loopback_up();
    CHECK(addresses() == std::vector<std::string>{"127.0.0.1/8"});
    net::restore_routes(checkpoint, {1});
    CHECK(addresses() == std::vector<std::string>{"10.1.2.3/32"});
  });
}

TEST_CASE("saved addresses, routes and rules are checked") {
  const std::string magic("\x22\x12\x36\x47", 4);
  std::string good = address_message("10.0.0.1", 8);
  CHECK(net::parse_saved("ifaddr-1", magic + good).size() == 1);
  CHECK_THROWS_WITH(net::parse_saved("ifaddr-1", good), Contains("isn't what"));
  CHECK_THROWS_WITH(net::parse_saved("ifaddr-1", magic + good.substr(0, 20)), Contains("cut off"));
  CHECK_THROWS_WITH(net::parse_saved("rule-1", std::string("\x86\x69\x70\x71", 4) + good),
                    Contains("of another type"));
  good[16] = 99;
  CHECK_THROWS_WITH(net::parse_saved("ifaddr-1", magic + good), Contains("unknown family"));
}

TEST_CASE("sysctls of a network namespace come back, and a fresh one has no firewall") {
  if (!root()) return;
  image::NetnsEntry settings;
  image::NetDeviceEntry loopback;
  in_fresh_network([&] {
    CHECK(net::firewall_rules().empty());
    sysctl::write("net/ipv4/conf/all/forwarding", "1");
    sysctl::write("net/ipv4/conf/all/accept_redirects", "0");
    sysctl::write("net/ipv4/conf/default/rp_filter", "2");
    sysctl::write("net/ipv4/conf/lo/arp_ignore", "3");
    if (sysctl::find("net/ipv6/conf/lo/hop_limit"))
      sysctl::write("net/ipv6/conf/lo/hop_limit", "17");
    net::Sysctls().read(settings);
    net::Sysctls().read(loopback);
  });
  in_fresh_network([&] {
    net::restore_sysctls(settings);
    net::restore_sysctls(loopback);
    CHECK(sysctl::read("net/ipv4/conf/all/forwarding") == "1");
    CHECK(sysctl::read("net/ipv4/conf/all/accept_redirects") == "0");
    CHECK(sysctl::read("net/ipv4/conf/default/rp_filter") == "2");
    CHECK(sysctl::read("net/ipv4/conf/lo/arp_ignore") == "3");
    image::NetnsEntry again;
    net::Sysctls().read(again);
    CHECK(again.SerializeAsString() == settings.SerializeAsString());
  });
}
