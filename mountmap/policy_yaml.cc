// The policy file's text. Nothing in it is passed over: a misspelt key would
// be a rule that doesn't protect what it was written for.
#include <fmt/core.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <yaml-cpp/yaml.h>

#include <array>
#include <cerrno>
#include <set>
#include <utility>

#include "base/text.h"
#include "kernel/directories.h"
#include "kernel/fs.h"
#include "mountmap/policy.h"

namespace stasis::mountmap {

namespace {

constexpr std::array actions{
    std::pair{"keep", Action::keep},         std::pair{"content", Action::content},
    std::pair{"recreate", Action::recreate}, std::pair{"skip", Action::skip},
    std::pair{"refuse", Action::refuse},
};

class Reader {
 public:
  explicit Reader(const std::string& name) : name_(name) {}

  Policy read(std::string_view text) {
    YAML::Node top;
    try {
      top = YAML::Load(std::string(text));
    } catch (const YAML::ParserException& error) {
      fail(error.mark, error.msg);
    }
    Policy policy;
    if (!top.IsDefined() || top.IsNull()) return policy;
    members(top, [&](const std::string& key, const YAML::Node& value, const YAML::Node& at) {
      if (key == "rules") {
        expect(value, value.IsSequence(), "expected a list of rules");
        for (const auto& item : value) policy.rules.push_back(rule(item));
      } else if (key == "checkpoints") {
        for (const auto& path : strings(value))
          policy.checkpoints.push_back(directory(value, path));
      } else if (key == "plugins") {
        policy.plugins = directory(value, string(value));
      } else if (key == "ghost_limit") {
        policy.ghost_limit = size(value);
      } else if (key == "size_limit") {
        policy.size_limit = size(value);
      } else {
        unknown(at, key, "rules, checkpoints, plugins, ghost_limit or size_limit");
      }
    });
    return policy;
  }

 private:
  [[noreturn]] void fail(const YAML::Mark& mark, const std::string& what) const {
    throw Error("use the policy", fmt::format("{}:{}:{}", name_, mark.line + 1, mark.column + 1))
        .because(what);
  }
  [[noreturn]] void unknown(const YAML::Node& at, const std::string& key, const char* known) const {
    fail(at.Mark(), fmt::format("unknown key \"{}\", expected {}", key, known));
  }
  void expect(const YAML::Node& node, bool holds, const std::string& what) const {
    if (!holds) fail(node.Mark(), what);
  }

  // Each member once, in order: key, value, and the key's own node.
  template <typename Visit>
  void members(const YAML::Node& map, Visit visit) const {
    expect(map, map.IsMap(), "expected keys with values");
    std::set<std::string> seen;
    for (const auto& member : map) {
      std::string key = string(member.first);
      if (!seen.insert(key).second) fail(member.first.Mark(), "\"" + key + "\" appears twice");
      visit(key, member.second, member.first);
    }
  }

  std::string string(const YAML::Node& node) const {
    expect(node, node.IsScalar(), "expected a text");
    expect(node, node.Scalar().find('\0') == std::string::npos, "contains a NUL character");
    expect(node, !node.Scalar().empty(), "is empty");
    return node.Scalar();
  }

  // One, or a list of them.
  std::vector<std::string> strings(const YAML::Node& node) const {
    if (!node.IsSequence()) return {string(node)};
    std::vector<std::string> all;
    for (const auto& item : node) all.push_back(string(item));
    expect(node, !all.empty(), "is an empty list");
    return all;
  }

  std::vector<std::string> path_globs(const YAML::Node& node) const {
    auto globs = strings(node);
    for (const auto& glob : globs)
      expect(node, glob.starts_with('/') || glob.starts_with("**"),
             "\"" + glob + "\" matches no path: it has to begin with / or **");
    return globs;
  }

  std::string directory(const YAML::Node& node, const std::string& path) const {
    expect(node, path.starts_with('/') && oci::clean_path(path) == path,
           "\"" + path + "\" is not an absolute path without \"..\" and trailing slashes");
    return path;
  }

  // "64k", "1M", "10G", or bytes.
  uint64_t size(const YAML::Node& node) const {
    std::string text = string(node);
    std::string_view digits = text;
    unsigned shift = 0;
    constexpr std::string_view units = "kMGT";
    if (size_t unit = units.find(digits.back()); unit != units.npos) {
      shift = 10 * (static_cast<unsigned>(unit) + 1);
      digits.remove_suffix(1);
    }
    uint64_t number = text::to_int<uint64_t>(digits).value_or(UINT64_MAX);
    expect(node, number <= (UINT64_MAX - 1) >> shift,
           "expected a size: bytes, or a number with k, M, G or T");
    return number << shift;
  }

  Action action(const YAML::Node& node) const {
    std::string name = string(node);
    for (const auto& [known, action] : actions)
      if (name == known) return action;
    fail(node.Mark(), fmt::format("unknown action \"{}\", expected keep, content, recreate, skip "
                                  "or refuse, or remap: PATH in place of it",
                                  name));
  }

  std::string remap(const YAML::Node& node) const {
    std::string path = string(node);
    expect(node, path.starts_with('/') || path.starts_with("{source}"),
           "expected an absolute path");
    for (size_t at = 0; (at = path.find('{', at)) != path.npos; ++at) {
      size_t end = path.find('}', at);
      expect(node, end != path.npos, "a \"{\" without its \"}\"");
      std::string name = path.substr(at + 1, end - at - 1);
      bool known = name.starts_with("annotation:") && name.size() > 11;
      for (const char* placeholder :
           {"id", "pod", "pod_uid", "namespace", "container", "destination", "source"})
        known |= name == placeholder;
      expect(node, known,
             fmt::format("unknown placeholder \"{{{}}}\", expected {{id}}, {{pod}}, {{pod_uid}}, "
                         "{{namespace}}, {{container}}, {{destination}}, {{source}} or "
                         "{{annotation:NAME}}",
                         name));
    }
    return path;
  }

  PolicyRule rule(const YAML::Node& node) const {
    PolicyRule rule;
    rule.place = fmt::format("{}:{}", name_, node.Mark().line + 1);
    int decisions = 0;
    members(node, [&](const std::string& key, const YAML::Node& value, const YAML::Node& at) {
      if (key == "destination") {
        rule.destinations = path_globs(value);
      } else if (key == "source") {
        rule.sources = path_globs(value);
      } else if (key == "type") {
        rule.types = strings(value);
      } else if (key == "annotation") {
        members(value, [&](const std::string& name, const YAML::Node& glob, const YAML::Node&) {
          rule.annotations[name] = string(glob);
        });
      } else if (key == "action") {
        rule.action = action(value);
        ++decisions;
      } else if (key == "remap") {
        rule.action = Action::remap;
        rule.path = remap(value);
        ++decisions;
      } else if (key == "why") {
        rule.why = string(value);
      } else {
        unknown(at, key, "destination, source, type, annotation, action, remap or why");
      }
    });
    expect(node, decisions == 1, "a rule has either an action or a remap");
    return rule;
  }

  const std::string& name_;
};

}  // namespace

Policy parse_policy(std::string_view text, const std::string& name) {
  try {
    return Reader(name).read(text);
  } catch (const YAML::Exception& error) {
    throw Error("use the policy", name).because(error.what());
  }
}

Policy load_policy(const std::string& path, bool trusted) {
  long fd = kernel::call(SYS_openat, AT_FDCWD, path.c_str(),
                         O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  if (fd == -ENOENT && path == default_policy_path) return builtin_policy();
  UniqueFd file(static_cast<int>(kernel::must(fd, "open the policy", path)));
  auto stat = kernel::stat_fd(file.get());
  if (!S_ISREG(stat.stx_mode)) throw Error("use the policy", path).because("it is no file");
  if (trusted) kernel::check_roots_own(Error("use the policy", path), "it", stat);
  Policy policy = parse_policy(kernel::read_all(file.get(), path, 1 << 20), path);
  const auto& behind = builtin_policy().rules;
  policy.rules.insert(policy.rules.end(), behind.begin(), behind.end());
  return policy;
}

}  // namespace stasis::mountmap
