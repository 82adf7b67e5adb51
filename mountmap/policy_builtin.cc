#include "mountmap/policy.h"

namespace stasis::mountmap {

namespace {

// Mounts that no rule names are kept as the map has them. What stands here
// says what the well-known ones are: runtimes and orchestrators make their
// sources anew for every container, at paths that config.json names.
constexpr std::string_view text = R"(
rules:
  - source: /var/lib/kubelet/pods/*/volumes/kubernetes.io~projected/*
    action: keep
    why: Kubernetes projected volume, written by the kubelet
  - source: [/var/lib/kubelet/pods/*/volumes/kubernetes.io~secret/*,
             /var/lib/kubelet/pods/*/volumes/kubernetes.io~configmap/*,
             /var/lib/kubelet/pods/*/volumes/kubernetes.io~downward-api/*]
    action: keep
    why: Kubernetes secret or ConfigMap, written by the kubelet
  - source: /var/lib/kubelet/pods/*/volumes/kubernetes.io~empty-dir/*
    action: keep
    why: Kubernetes emptyDir, shared with the pod's other containers
  - source: /var/lib/kubelet/pods/*/volume-subpaths/*/*/*
    action: keep
    why: Kubernetes subPath, bound by the kubelet
  - source: /var/lib/kubelet/pods/*/volumes/*/**
    action: keep
    why: Kubernetes volume
  - source: /var/lib/kubelet/pods/*/etc-hosts
    action: keep
    why: the pod's hosts file
  - source: /var/lib/kubelet/pods/*/containers/*/*
    action: keep
    why: Kubernetes termination log
  - source: ["/run/containerd/io.containerd.grpc.v1.cri/sandboxes/*/*",
             "/var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes/*/*"]
    action: keep
    why: the pod's own, shared by its containers
  - source: /var/lib/docker/containers/*/mounts/shm
    action: keep
    why: Docker's shared memory of the container
  - source: [/var/lib/docker/containers/*/hosts, /var/lib/docker/containers/*/hostname,
             /var/lib/docker/containers/*/resolv.conf]
    action: keep
    why: made by Docker for the container
  - source: /var/lib/docker/volumes/*/_data
    action: keep
    why: volume of Docker
  - source: "**/*-containers/*/userdata/**"
    action: keep
    why: made by podman or CRI-O for the container
  - source: "**/storage/volumes/*/_data"
    action: keep
    why: volume of podman
  - type: [nfs, nfs4, cifs, smb3, ceph, 9p, glusterfs, "fuse.*", fuse]
    action: keep
    why: served by another than the kernel; it has to answer at a restore
)";

}  // namespace

const Policy& builtin_policy() {
  static const Policy policy = [] {
    Policy parsed = parse_policy(text, "built-in policy");
    parsed.checkpoints = {"/var/lib/stasis/checkpoints"};
    parsed.any_checkpoint = true;
    for (auto& rule : parsed.rules) rule.place = "built-in rule";
    return parsed;
  }();
  return policy;
}

}  // namespace stasis::mountmap
