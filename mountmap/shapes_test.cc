// The containers of podman (from a live one), Docker and Kubernetes (after
// their documented layouts): every mount in its class, with no option at all.
#include <catch2/catch.hpp>

#include "kernel/fs.h"
#include "mountmap/mount_map.h"
#include "mountmap/policy.h"
#include "mountmap/test_support.h"

using namespace stasis::mountmap;

namespace {

std::string text(const std::string& name) {
  return stasis::kernel::read_file(STASIS_FIXTURES "/mounts/" + name);
}

// Destinations with their symbolic links resolved, as these images have them.
std::string resolved(const std::string& path) {
  return path.starts_with("/var/run/") ? path.substr(4) : path;
}

MountMap shape(const std::string& name) {
  auto container = MountTable::parse(text(name + ".mountinfo"));
  auto host = MountTable::parse(text(name + "-host.mountinfo"));
  auto config = stasis::oci::parse_config(text(name + "-config.json"), "/bundle");
  auto map = make_map({.container = container,
                       .host = host,
                       .config = &config,
                       .cgroup_namespace = config.has_namespace("cgroup"),
                       .resolve = resolved});
  apply_policy(map, builtin_policy(), {"c1", &config});
  return map;
}

struct Expected {
  const char *mountpoint, *source, *reason;  // the end of the reason
};

void expect_external(const MountMap& map, std::initializer_list<Expected> all) {
  for (const auto& one : all) {
    INFO(one.mountpoint);
    const MapRow& row = at(map, one.mountpoint);
    CHECK(row.kind == MountClass::external);
    CHECK(row.key == one.mountpoint);
    CHECK(row.source == one.source);
    CHECK_THAT(row.reason, Catch::EndsWith(one.reason));
  }
}

void expect_own(const MountMap& map, std::initializer_list<const char*> all) {
  for (const char* mountpoint : all) {
    INFO(mountpoint);
    CHECK(at(map, mountpoint).kind == MountClass::own);
  }
}

size_t externals(const MountMap& map) { return map.external_mounts().size(); }

// What every runtime masks.
void expect_confined(const MountMap& map) {
  expect_own(map, {"/proc/bus", "/proc/sys", "/proc/acpi", "/sys/firmware"});
  CHECK(at(map, "/proc/bus").reason == "bind of /proc/bus inside the container");
  CHECK(at(map, "/proc/keys").external == ExternalKind::masked);
}

}  // namespace

TEST_CASE("a container of podman") {
  auto map = shape("podman");
  CHECK(map.findings.empty());
  CHECK(at(map, "/").kind == MountClass::root);
  CHECK(at(map, "/").source == "/var/lib/containers/storage/vfs/dir/e2c60e4ae689");
  expect_own(map, {"/sys", "/proc", "/dev", "/dev/pts", "/dev/mqueue", "/cache", "/sys/fs/cgroup",
                   "/sys/dev/block"});
  expect_confined(map);
  const char* podman = "made by podman or CRI-O for the container (built-in rule)";
  expect_external(
      map,
      {{"/etc/hosts", "/run/containers/storage/vfs-containers/491dae837e5a/userdata/hosts", podman},
       {"/etc/hostname", "/run/containers/storage/vfs-containers/491dae837e5a/userdata/hostname",
        podman},
       {"/run/.containerenv",
        "/run/containers/storage/vfs-containers/491dae837e5a/userdata/.containerenv", podman},
       {"/run/secrets", "/run/containers/storage/vfs-containers/491dae837e5a/userdata/run/secrets",
        podman},
       {"/run/secrets/mysec",
        "/var/lib/containers/storage/vfs-containers/491dae837e5a/userdata/secrets/mysec", podman},
       {"/dev/shm", "/var/lib/containers/storage/vfs-containers/491dae837e5a/userdata/shm", podman},
       {"/named", "/var/lib/containers/storage/volumes/named/_data",
        "volume of podman (built-in rule)"},
       {"/vol", "/srv/voldata", "config.json binds it from the host"}});
  CHECK(at(map, "/sys/fs/cgroup/memory").external == ExternalKind::cgroup);
  CHECK(externals(map) == 8 + 9 + 2);
}

TEST_CASE("a container of Docker") {
  auto map = shape("docker");
  CHECK(map.findings.empty());
  CHECK(at(map, "/").kind == MountClass::root);
  CHECK(at(map, "/").source == "/var/lib/docker/overlay2/5f2a/merged");
  expect_own(map,
             {"/sys", "/proc", "/dev", "/dev/pts", "/dev/mqueue", "/dev/shm", "/sys/fs/cgroup"});
  CHECK(at(map, "/dev/shm").reason ==
        "tmpfs of the container: made anew, its content is in the image");
  expect_confined(map);
  const char* docker = "made by Docker for the container (built-in rule)";
  expect_external(
      map, {{"/etc/hosts", "/var/lib/docker/containers/d0c4e1/hosts", docker},
            {"/etc/hostname", "/var/lib/docker/containers/d0c4e1/hostname", docker},
            {"/etc/resolv.conf", "/var/lib/docker/containers/d0c4e1/resolv.conf", docker},
            {"/data", "/var/lib/docker/volumes/web-data/_data", "volume of Docker (built-in rule)"},
            // Written as /var/run/docker.sock on both sides.
            {"/run/docker.sock", "/var/run/docker.sock", "config.json binds it from the host"},
            {"/shared", "/mnt/nfs/www",
             "served by another than the kernel; it has to answer at a restore (built-in rule)"}});
  CHECK(externals(map) == 6 + 3);
}

TEST_CASE("a container of Kubernetes") {
  auto map = shape("kubernetes");
  CHECK(map.findings.empty());
  CHECK(at(map, "/").kind == MountClass::root);
  expect_own(map, {"/sys", "/proc", "/dev", "/dev/pts", "/dev/mqueue", "/sys/fs/cgroup"});
  expect_confined(map);
  const std::string pod = "/var/lib/kubelet/pods/7d1f2c3a-0000-4000-8000-0123456789ab";
  const std::string volumes = pod + "/volumes/kubernetes.io~";
  auto kept = [&](const char* mountpoint, const std::string& source, const char* reason) {
    expect_external(map, {{mountpoint, source.c_str(), reason}});
  };
  kept("/etc/hosts", pod + "/etc-hosts", "the pod's hosts file (built-in rule)");
  kept("/dev/termination-log", pod + "/containers/web/9a8b7c6d",
       "Kubernetes termination log (built-in rule)");
  const std::string sandbox = "io.containerd.grpc.v1.cri/sandboxes/5ab0/";
  const char* shared = "the pod's own, shared by its containers (built-in rule)";
  kept("/etc/hostname", "/var/lib/containerd/" + sandbox + "hostname", shared);
  kept("/etc/resolv.conf", "/var/lib/containerd/" + sandbox + "resolv.conf", shared);
  // tmpfs of the pod: the other containers have it, too, so it is never copied.
  kept("/dev/shm", "/run/containerd/" + sandbox + "shm", shared);
  kept("/work", volumes + "empty-dir/work",
       "Kubernetes emptyDir, shared with the pod's other containers (built-in rule)");
  kept("/cache", volumes + "empty-dir/cache",
       "Kubernetes emptyDir, shared with the pod's other containers (built-in rule)");
  // Also tmpfs, and named with the symbolic link /var/run in config.json.
  kept("/run/secrets/kubernetes.io/serviceaccount", volumes + "projected/kube-api-access-x2b7k",
       "Kubernetes projected volume, written by the kubelet (built-in rule)");
  const char* written = "Kubernetes secret or ConfigMap, written by the kubelet (built-in rule)";
  kept("/etc/tls", volumes + "secret/tls", written);
  kept("/etc/app", volumes + "configmap/app", written);
  // The kubelet has swapped ..data since: the file that is bound has lost its name.
  kept("/etc/nginx/nginx.conf", pod + "/volume-subpaths/nginx/web/4",
       "Kubernetes subPath, bound by the kubelet (built-in rule)");
  kept("/data", volumes + "csi/pvc-1234/mount", "Kubernetes volume (built-in rule)");
  kept("/host/log", "/var/log", "config.json binds it from the host");
  CHECK(externals(map) == 13 + 3);
}

TEST_CASE("the same without config.json: no mount changes its class") {
  for (const char* name : {"podman", "docker", "kubernetes"}) {
    INFO(name);
    auto container = MountTable::parse(text(std::string(name) + ".mountinfo"));
    auto host = MountTable::parse(text(std::string(name) + "-host.mountinfo"));
    auto config = stasis::oci::parse_config(text(std::string(name) + "-config.json"), "/bundle");
    auto known = shape(name);
    auto guessed = make_map({.container = container,
                             .host = host,
                             .cgroup_namespace = config.has_namespace("cgroup"),
                             .resolve = {}});
    for (size_t i = 0; i < known.rows.size(); ++i) {
      INFO(known.rows[i].mount.mountpoint);
      CHECK(known.rows[i].kind == guessed.rows[i].kind);
    }
  }
}
