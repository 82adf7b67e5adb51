#include "mountmap/policy.h"

#include <fmt/core.h>
#include <sys/mount.h>

#include <algorithm>
#include <array>

#include "base/error.h"
#include "mountmap/paths.h"

namespace stasis::mountmap {

namespace {

// Types whose data can be read while the container stands still: no server has
// to answer for them, and what they show are files.
constexpr std::array storable{"bcachefs", "btrfs",    "erofs", "exfat",    "ext2",  "ext3",
                              "ext4",     "f2fs",     "jfs",   "overlay",  "ramfs", "squashfs",
                              "tmpfs",    "virtiofs", "xfs",   "reiserfs", "vfat",  "zfs"};
// Types of which a fresh mount is as good as any.
constexpr std::array fresh{"binfmt_misc", "cgroup2", "debugfs",    "devpts", "fusectl", "mqueue",
                           "proc",        "pstore",  "securityfs", "sysfs",  "tmpfs",   "tracefs"};
// Types that can be mounted anew by name, but have a content that would be lost.
constexpr std::array emptied{"hugetlbfs", "ramfs"};

template <typename List>
bool contains(const List& list, std::string_view wanted) {
  return std::find(list.begin(), list.end(), wanted) != list.end();
}

bool any_matches(const std::vector<std::string>& globs, const std::string& text) {
  return globs.empty() || std::any_of(globs.begin(), globs.end(),
                                      [&](const auto& glob) { return glob_matches(glob, text); });
}

bool annotations_match(const PolicyRule& rule, const oci::Config* config) {
  return std::all_of(rule.annotations.begin(), rule.annotations.end(), [&](const auto& wanted) {
    if (!config) return false;
    auto found = config->annotations.find(wanted.first);
    return found != config->annotations.end() && glob_matches(wanted.second, found->second);
  });
}

// By either of the two names that containerd and CRI-O have for it.
std::string annotation(const PolicySubject& subject, const char* containerd, const char* crio) {
  if (!subject.config) return {};
  const auto& all = subject.config->annotations;
  for (const char* name : {containerd, crio})
    if (auto found = all.find(name); found != all.end()) return found->second;
  return {};
}

std::string value_of(const std::string& name, const MountFacts& mount,
                     const PolicySubject& subject) {
  if (name == "id") return subject.id;
  if (name == "destination") return mount.destination;
  if (name == "source") return mount.source.empty() ? "" : oci::clean_path(mount.source);
  if (name == "pod")
    return annotation(subject, "io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name");
  if (name == "pod_uid")
    return annotation(subject, "io.kubernetes.cri.sandbox-uid", "io.kubernetes.pod.uid");
  if (name == "namespace")
    return annotation(subject, "io.kubernetes.cri.sandbox-namespace",
                      "io.kubernetes.pod.namespace");
  if (name == "container")
    return annotation(subject, "io.kubernetes.cri.container-name", "io.kubernetes.container.name");
  std::string wanted = name.substr(name.find(':') + 1);
  return annotation(subject, wanted.c_str(), wanted.c_str());
}

class Applier {
 public:
  Applier(MountMap& map, const Policy& policy, const PolicySubject& subject)
      : map_(map), policy_(policy), subject_(subject) {}

  void run() {
    for (auto& row : map_.rows) {
      if (row.kind == MountClass::root || confines(row)) continue;
      if (const MapRow* over = skipped_parent(row)) {
        skip(row, "stands on " + over->mount.mountpoint + ", which is skipped");
        row.rule = over->rule;
        continue;
      }
      const PolicyRule* rule = decide(policy_, facts(row), subject_);
      if (rule) follow(row, *rule);
    }
  }

 private:
  static MountFacts facts(const MapRow& row) {
    return {row.mount.mountpoint, row.source.empty() ? "" : oci::clean_path(row.source),
            row.mount.fstype};
  }

  // Nothing is ever restored less confined than it was.
  bool confines(const MapRow& row) const {
    if (row.external == ExternalKind::masked) return true;
    if (const auto* config = subject_.config)
      return contains(config->masked_paths, row.mount.mountpoint) ||
             contains(config->readonly_paths, row.mount.mountpoint);
    return row.mount.fstype == "proc" && row.mount.root != "/" && (row.mount.flags & MS_RDONLY);
  }

  const MapRow* skipped_parent(const MapRow& row) const {
    for (const auto& other : map_.rows)
      if (other.kind == MountClass::skipped && other.mount.id != 0 &&
          other.mount.id == row.mount.parent)
        return &other;
    return nullptr;
  }

  void follow(MapRow& row, const PolicyRule& rule) {
    row.action = rule.action;
    row.rule = rule.place;
    switch (rule.action) {
      case Action::keep:
        return keep(row, rule);
      case Action::skip:
        return skip(row, explain("left out", rule));
      case Action::refuse:
        return refuse(row,
                      rule.why.empty() ? "is refused by the policy" : "is refused: " + rule.why,
                      "unmount it inside the container, or change the rule at " + rule.place);
      case Action::remap:
        return remap(row, rule);
      case Action::content:
        return content(row, rule);
      case Action::recreate:
        return recreate(row, rule);
    }
  }

  static std::string explain(std::string what, const PolicyRule& rule) {
    if (!rule.why.empty()) what += fmt::format(": {}", rule.why);
    return fmt::format("{} ({})", what, rule.place);
  }

  void refuse(MapRow& row, std::string what, std::string remedy) {
    map_.findings.push_back({.severity = Severity::obstacle,
                             .subject = "mount " + row.mount.mountpoint,
                             .what = std::move(what),
                             .remedy = std::move(remedy),
                             .mount = row.mount.id,
                             .rule = row.rule});
  }

  // What was found about a source no longer matters.
  void forget_findings(const MapRow& row) {
    if (row.mount.id != 0)
      std::erase_if(map_.findings, [&](const auto& f) { return f.mount == row.mount.id; });
  }

  void keep(MapRow& row, const PolicyRule& rule) {
    row.reason = rule.why.empty() ? fmt::format("{} ({})", row.reason, rule.place)
                                  : explain(row.reason, rule);
  }

  void skip(MapRow& row, std::string reason) {
    forget_findings(row);
    row.kind = MountClass::skipped;
    row.action = Action::skip;
    row.reason = std::move(reason);
  }

  void remap(MapRow& row, const PolicyRule& rule) {
    try {
      row.remapped = remapped_path(rule, facts(row), subject_);
    } catch (const Error& error) {
      return refuse(row, error.cause(), error.remedy());
    }
    forget_findings(row);
    if (row.kind == MountClass::own) {
      row.external = ExternalKind::directory;
      row.key = row.mount.mountpoint;
    }
    row.kind = MountClass::external;
    row.reason = explain("a restore binds " + row.remapped, rule);
  }

  void own(MapRow& row, std::string reason) {
    forget_findings(row);
    row.kind = MountClass::own;
    row.key.clear();
    row.reason = std::move(reason);
  }

  void content(MapRow& row, const PolicyRule& rule) {
    const std::string& type = row.mount.fstype;
    if (row.kind == MountClass::own && (type == "tmpfs" || row.mount.root != "/")) {
      // Its data comes with the image anyway, or with that of the mount it shows.
      row.action = Action::keep;
      return keep(row, rule);
    }
    if (!contains(storable, type) || row.external == ExternalKind::device)
      return refuse(row,
                    row.external == ExternalKind::device
                        ? "is a device, which has no content to take into the image"
                        : "is of type " + type + ", whose content can't be taken into the image",
                    "choose keep, remap or skip at " + rule.place);
    own(row, explain("its data is taken into the image", rule));
  }

  void recreate(MapRow& row, const PolicyRule& rule) {
    const std::string& type = row.mount.fstype;
    // Of a tmpfs any directory may be what is shown.
    if ((!contains(fresh, type) && !contains(emptied, type)) ||
        (type != "tmpfs" && row.mount.root != "/") || row.external == ExternalKind::device)
      return refuse(row,
                    row.mount.root != "/"
                        ? "shows a part of another file system: there is nothing to make anew"
                        : "is of type " + type + ", which can't be made anew",
                    "choose keep, remap, content or skip at " + rule.place);
    if (row.kind == MountClass::own && type == "tmpfs" && row.mount.root != "/")
      return refuse(row, "shows a part of another mount of the container",
                    "let the rule at " + rule.place + " pass it over");
    if (row.kind == MountClass::own && type != "tmpfs" && contains(fresh, type)) {
      row.action = Action::keep;  // made anew in any case
      return keep(row, rule);
    }
    if (const MapRow* part = part_of(row))
      return refuse(row, "can't be emptied: " + part->mount.mountpoint + " shows a part of it",
                    "choose content at " + rule.place);
    own(row, explain("made anew, empty", rule));
  }

  const MapRow* part_of(const MapRow& whole) const {
    for (const auto& row : map_.rows)
      if (row.mount.major == whole.mount.major && row.mount.minor == whole.mount.minor &&
          (row.kind == MountClass::own || row.external == ExternalKind::masked) &&
          row.mount.root != whole.mount.root && inside(row.mount.root, whole.mount.root))
        return &row;
    return nullptr;
  }

  MountMap& map_;
  const Policy& policy_;
  const PolicySubject& subject_;
};

// "**" takes the longest way; patterns are short and written by hand.
bool matches(std::string_view glob, std::string_view text) {
  for (; !glob.empty(); glob.remove_prefix(1), text.remove_prefix(1)) {
    if (glob.starts_with('*')) {
      bool across = glob.starts_with("**");
      std::string_view rest = glob.substr(across ? 2 : 1);
      for (size_t taken = 0;; ++taken) {
        if (matches(rest, text.substr(taken))) return true;
        if (taken == text.size() || (!across && text[taken] == '/')) return false;
      }
    }
    if (text.empty() || (glob[0] == '?' ? text[0] == '/' : glob[0] != text[0])) return false;
  }
  return text.empty();
}

}  // namespace

bool glob_matches(std::string_view glob, std::string_view text) { return matches(glob, text); }

const PolicyRule* decide(const Policy& policy, const MountFacts& mount,
                         const PolicySubject& subject) {
  for (const auto& rule : policy.rules)
    if (any_matches(rule.destinations, mount.destination) &&
        any_matches(rule.sources, mount.source) && any_matches(rule.types, mount.type) &&
        annotations_match(rule, subject.config))
      return &rule;
  return nullptr;
}

namespace {

// `whose`: "the rule at policy.yaml:12".
std::string fill_placeholders(std::string_view rest, const std::string& whose, const Error& error,
                              const MountFacts& mount, const PolicySubject& subject) {
  std::string path;
  while (!rest.empty()) {
    size_t open = rest.find('{');
    path += rest.substr(0, open);
    if (open == rest.npos) break;
    size_t close = rest.find('}', open);
    if (close == rest.npos) throw Error(error).because(whose + " has a { without its }");
    std::string name(rest.substr(open + 1, close - open - 1));
    std::string value = value_of(name, mount, subject);
    if (value.empty())
      throw Error(error)
          .because(fmt::format("{} needs {{{}}}, which isn't known here", whose, name))
          .hint("name the path without it, or bind the rule to containers that have it");
    // Annotations are written by tenants.
    bool path_like = name == "destination" || name == "source";
    if (!path_like && (value.find('/') != value.npos || value == "." || value == ".."))
      throw Error(error)
          .because(
              fmt::format("{{{}}} of {} is \"{}\": no name for a directory", name, whose, value))
          .hint("name the path without it, or correct the container's annotation");
    path += value;
    rest.remove_prefix(close + 1);
  }
  return path;
}

}  // namespace

std::string remapped_path(const PolicyRule& rule, const MountFacts& mount,
                          const PolicySubject& subject) {
  return fill_placeholders(rule.path, "the rule at " + rule.place,
                           Error("remap the mount", mount.destination), mount, subject);
}

std::string checkpoint_name(const std::string& name, const PolicySubject& subject) {
  return fill_placeholders(name, "its name", Error("use the checkpoint", name), {}, subject);
}

void apply_policy(MountMap& map, const Policy& policy, const PolicySubject& subject) {
  Applier(map, policy, subject).run();
}

}  // namespace stasis::mountmap
