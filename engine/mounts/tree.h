// How a mount tree is built up again from its entries: where each mount's
// file system comes from and in which order they are attached. Made before a
// dump (so that nothing is written that could not be read) and for a restore.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "mnt.pb.h"

namespace stasis::engine::mounts {

enum class How {
  root,      // the directory that becomes the container's /
  external,  // a source on the host, named by the entry's key
  fresh,     // a superblock of its own
  bind,      // another mount's superblock, shown once more
};

// A directory that an overlay is made of.
struct Layer {
  std::string path;  // as the overlay's options have it, from the root of the namespace
  int node;          // index of the one that it lies on
};

struct Node {
  const image::MntEntry* entry = nullptr;
  int space = 0;    // index of its mount namespace; 0 is the root task's
  std::string key;  // of an external mount
  int parent = -1;  // index of a node; -1 for the root of a namespace
  How how = How::fresh;
  int source = -1;            // bind: the node whose superblock it shows ...
  int unseen = -1;            // ... or the index of one in Tree::unseen ...
  std::string subpath;        // ... and its root, relative to that node's; "" is the same;
                              // provided: what of the whole it shows; "" is all
  std::vector<Layer> layers;  // fresh, an overlay of the container's own
};

// A superblock of the container's own whose root no mount shows any more.
struct Unseen {
  const image::MntEntry* entry = nullptr;  // that shows a part of it
  std::vector<int> parts;                  // all nodes that do
};

// Mounts that exchange mounts with each other: one peer group, or the slaves of
// one master that are no peers of anybody.
struct Group {
  uint32_t shared = 0, master = 0;
  std::vector<int> members;  // the one with the widest root first
  // Where that isn't wide enough for its peers and slaves: the planted node, or
  // the index in Tree::unseen, that shows all of them.
  int wide_node = -1, wide_unseen = -1;
};

// The trees of all mount namespaces of a container; what is mounted in several
// is a bind of one.
struct Tree {
  std::vector<Node> nodes;    // namespace by namespace, each in mountinfo's order
  std::vector<int> order;     // of attaching: parents and what gets covered first
  std::set<int> planted;      // to be made before all others, as these show them, too
  std::vector<Group> groups;  // masters before their slaves
  std::vector<int> roots;     // by namespace
  std::vector<Unseen> unseen;
};

// As in the image: the last mount of mountinfo first.
using Entries = std::vector<image::MntEntry>;

// `spaces`: by mount namespace, the root task's first. They must outlive the
// tree. `stored`: devices whose content is in the image, or will be; these can
// be made also where only a part of theirs is mounted. Throws Error naming the
// mount.
Tree plan_tree(const std::vector<const Entries*>& spaces, const std::set<uint32_t>& stored = {});
Tree plan_tree(const Entries& entries, const std::set<uint32_t>& stored = {});

// The name that an external mount has in the image; empty for all others.
std::string external_key(const image::MntEntry& entry);

// "/dev/shm (tmpfs)" for messages.
std::string describe(const image::MntEntry& entry);

// Absolute, normal, without anything that leads elsewhere.
bool is_plain_path(const std::string& path);

// `path` relative to `base` ("" when equal), where it is `base` or beneath it.
bool is_beneath(const std::string& path, const std::string& base);
std::string relative_to(const std::string& path, const std::string& base);

}  // namespace stasis::engine::mounts
