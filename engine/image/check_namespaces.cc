// Namespaces other than mount, cgroups and seccomp filters.
#include <unordered_set>

#include "engine/image/check.h"

namespace stasis::image {
namespace {

constexpr size_t uts_length = 64;
constexpr size_t device_name_length = 15;
constexpr int most_links = 4096;  // of a network namespace
constexpr size_t largest_address = 32, largest_attribute = 256;
constexpr int user_map_limit = 340;
constexpr size_t filter_limit = size_t{4096} * 8;

template <typename Extents>
void check_user_map(const std::string& stem, const char* name, const Extents& extents) {
  expect(extents.size() <= user_map_limit, stem, -1, "{}: {} extents", name, extents.size());
  for (const UidGidExtent& extent : extents)
    expect(extent.count() > 0 && extent.first() <= UINT32_MAX - extent.count() &&
               extent.lower_first() <= UINT32_MAX - extent.count(),
           stem, -1, "{}: extent {} {} {}", name, extent.first(), extent.lower_first(),
           extent.count());
}

bool is_device_name(const std::string& name) {
  return !name.empty() && name.size() <= device_name_length &&
         name.find('/') == std::string::npos && name != "." && name != "..";
}

void check_devices(const Checkpoint& image) {
  std::string stem = stem_of("netdev", image.root().ids.net_ns_id());
  std::unordered_set<uint32_t> seen;
  for (size_t i = 0; i < image.netdevs.size(); ++i) {
    const NetDeviceEntry& device = image.netdevs[i];
    const std::string& name = device.name();
    auto at = static_cast<int64_t>(i);
    expect(is_device_name(name), stem, at, "device name \"{}\"", name);
    expect(device.ifindex() > 0 && device.ifindex() <= INT32_MAX &&
               seen.insert(device.ifindex()).second,
           stem, at, "{}: ifindex {}", name, device.ifindex());
  }
}

void check_links(const StasisEntry& more) {
  expect(more.links_size() <= most_links, "stasis", -1, "{} links", more.links_size());
  for (const LinkEntry& link : more.links()) {
    expect(is_device_name(link.name()), "stasis", -1, "link name \"{}\"", link.name());
    expect(link.index() > 0 && link.index() <= INT32_MAX, "stasis", -1, "{}: index {}", link.name(),
           link.index());
    expect(link.address().size() <= largest_address, "stasis", -1, "{}: an address of {} bytes",
           link.name(), link.address().size());
    for (const auto* attributes : {&link.data(), &link.port()})
      for (const LinkAttributeEntry& attribute : *attributes)
        expect(attribute.value().size() <= largest_attribute, "stasis", -1,
               "{}: an attribute of {} bytes", link.name(), attribute.value().size());
  }
}

void check_time(const TimensEntry& entry) {
  for (const Timespec* time : {&entry.monotonic(), &entry.boottime()})
    expect(time->tv_nsec() < nsec_per_sec && time->tv_sec() < INT64_MAX / nsec_per_sec, "timens-0",
           -1, "a clock at {} s {} ns", time->tv_sec(), time->tv_nsec());
}

void check_directory(const CgroupDirEntry& dir) {
  expect(is_clean_path("/" + dir.dir_name()), "cgroup", -1, "directory {}", dir.dir_name());
  for (const CgroupPropEntry& property : dir.properties())
    expect(!property.name().empty() && property.name().find('/') == std::string::npos &&
               property.name() != "." && property.name() != "..",
           "cgroup", -1, "{}: property \"{}\"", dir.dir_name(), property.name());
  for (const CgroupDirEntry& child : dir.children()) check_directory(child);
}

void check_cgroups(const CgroupEntry& cgroup) {
  std::unordered_set<uint32_t> ids;
  for (const CgSetEntry& set : cgroup.sets()) {
    expect(set.id() != no_cgroup_set && ids.insert(set.id()).second, "cgroup", -1, "set {} again",
           set.id());
    for (const CgMemberEntry& member : set.ctls()) {
      expect(is_clean_path(member.path()), "cgroup", -1, "set {}: path {}", set.id(),
             member.path());
      expect(member.cgns_prefix() <= member.path().size(), "cgroup", -1, "set {}: cgns_prefix {}",
             set.id(), member.cgns_prefix());
    }
  }
  for (const CgControllerEntry& controller : cgroup.controllers())
    for (const CgroupDirEntry& dir : controller.dirs()) check_directory(dir);
}

void check_filters(const SeccompEntry& seccomp) {
  for (int i = 0; i < seccomp.seccomp_filters_size(); ++i) {
    const SeccompFilter& filter = seccomp.seccomp_filters(i);
    size_t size = filter.filter().size();
    expect(size > 0 && size % 8 == 0 && size <= filter_limit, "seccomp", -1,
           "filter {} has {} bytes", i, size);
    expect(!filter.has_prev() || filter.prev() < static_cast<uint32_t>(i), "seccomp", -1,
           "filter {}: prev {} comes not before it", i, filter.prev());
  }
}

}  // namespace

void check_inventory(const InventoryEntry& inventory) {
  expect(inventory.img_version() == image_version, "inventory", -1,
         "img_version {}, only {} can be read", inventory.img_version(), image_version);
  expect(inventory.fdinfo_per_id() && inventory.ns_per_id() && inventory.has_root_ids(),
         "inventory", -1, "made by a CRIU too old to be read");
  if (inventory.plugins_entry().plugins_size() > 0)
    expect(false, "inventory", -1, "made with the CRIU plugin {}, which stasis does not have",
           inventory.plugins_entry().plugins(0));
}

void check_namespaces(const Checkpoint& image) {
  const TaskKobjIdsEntry& ids = image.root().ids;
  if (image.uts)
    expect(
        image.uts->nodename().size() <= uts_length && image.uts->domainname().size() <= uts_length,
        stem_of("utsns", ids.uts_ns_id()), -1, "a name longer than {}", uts_length);
  if (image.ipc)
    expect(image.ipc->sem_ctls_size() == 4, stem_of("ipcns-var", ids.ipc_ns_id()), -1,
           "sem_ctls of {} words", image.ipc->sem_ctls_size());
  if (image.timens) check_time(*image.timens);
  if (image.userns) {
    check_user_map(stem_of("userns", ids.user_ns_id()), "uid_map", image.userns->uid_map());
    check_user_map(stem_of("userns", ids.user_ns_id()), "gid_map", image.userns->gid_map());
  }
  check_devices(image);
  if (image.more) check_links(*image.more);
}

void check_confinement(const Checkpoint& image) {
  if (image.cgroup) check_cgroups(*image.cgroup);
  if (image.seccomp) check_filters(*image.seccomp);
}

}  // namespace stasis::image
