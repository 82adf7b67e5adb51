#include "cli/remap.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <fmt/ranges.h>
#include <sys/mount.h>
#include <sys/syscall.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>

#include "base/text.h"
#include "cli/fit.h"
#include "kernel/directories.h"
#include "kernel/fs.h"
#include "mountmap/config_key.h"

namespace stasis::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// The external mounts that a bundle can bind; the runtime gives the others.
std::vector<Wanted> mappable(const image::Checkpoint& image, const oci::Config& config) {
  std::vector<Wanted> result;
  std::map<std::string, Given> given = given_sources(config);
  for (Wanted& wanted : wanted_sources(image)) {
    auto found = given.find(wanted.key);
    if (found == given.end() || found->second.mount) result.push_back(std::move(wanted));
  }
  return result;
}

[[noreturn]] void refuse(const std::string& argument, const std::vector<Wanted>& known) {
  std::vector<std::string> keys;
  for (const Wanted& wanted : known) keys.push_back(wanted.key);
  std::string destination = argument.substr(0, argument.find('='));
  std::vector<std::string> near = text::nearest(oci::clean_path(destination), keys);
  throw Error("understand", "--map " + argument)
      .because(destination + " is no external mount of the checkpoint" +
               (keys.empty() ? ", which has none" : ""))
      .hint(near.empty()
                ? "stasis inspect shows what it has: " + fmt::format("{}", fmt::join(keys, ", "))
                : fmt::format("did you mean {}?", fmt::join(near, ", ")));
}

// A path may hold "=" itself: the first one behind a known destination counts.
Remap parse(const std::string& argument, const std::vector<Wanted>& known) {
  for (size_t at = argument.find('='); at != argument.npos; at = argument.find('=', at + 1)) {
    std::string destination = oci::clean_path(argument.substr(0, at));
    std::string source = argument.substr(at + 1);
    for (const Wanted& wanted : known)
      if (wanted.key == destination && !source.empty())
        return {destination, fs::absolute(source).lexically_normal().string(),
                (wanted.entry->flags() & MS_RDONLY) != 0};
  }
  if (argument.find('=') == argument.npos || argument.ends_with('='))
    throw Error("understand", "--map " + argument).because("expected DEST=SOURCE");
  refuse(argument, known);
}

}  // namespace

std::vector<Remap> parse_maps(const std::vector<std::string>& arguments,
                              const image::Checkpoint& image, const oci::Config& config) {
  std::vector<Wanted> known = mappable(image, config);
  std::vector<Remap> maps;
  for (const std::string& argument : arguments) {
    Remap map = parse(argument, known);
    for (const Remap& other : maps)
      if (other.destination == map.destination)
        throw Error("understand", "--map " + argument)
            .because(map.destination + " is mapped twice");
    maps.push_back(std::move(map));
  }
  return maps;
}

std::string mapped_config(const std::string& text, const std::string& bundle,
                          const std::vector<Remap>& maps) {
  oci::Config config = oci::parse_config(text, bundle);
  Json json = Json::parse(text);
  if (json.contains("root")) json["root"]["path"] = config.root_path;
  Json& mounts = json["mounts"];
  for (size_t i = 0; i < config.mounts.size(); ++i)
    if (config.mounts[i].bind()) mounts[i]["source"] = config.mounts[i].source;
  for (const Remap& map : maps) {
    Json made{{"destination", map.destination},
              {"type", "bind"},
              {"source", map.source},
              {"options", {"rbind", map.read_only ? "ro" : "rw"}}};
    size_t i = 0;
    while (i < config.mounts.size() &&
           mountmap::key_of(config, config.mounts[i].destination) != map.destination)
      ++i;
    if (i == config.mounts.size())
      mounts.push_back(std::move(made));
    else if (config.mounts[i].bind())
      mounts[i]["source"] = map.source;
    else
      mounts[i] = std::move(made);
  }
  return json.dump(2) + "\n";
}

MappedBundle::MappedBundle(const std::string& parent, const std::string& id,
                           const std::string& config)
    : path_(parent + "/" + id) {
  kernel::make_directories(path_, 0700);
  std::string file = path_ + "/config.json";
  if (fs::exists(file)) before_ = kernel::read_file(file);
  write(config);
}

MappedBundle::~MappedBundle() {
  if (kept_) return;
  std::error_code ignored;
  if (!before_) {
    fs::remove_all(path_, ignored);
    return;
  }
  try {
    write(*before_);
  } catch (const Error&) {  // NOLINT: an undo has nobody to tell
  }
}

void MappedBundle::write(const std::string& config) const {
  UniqueFd dir = kernel::open(path_, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  constexpr const char* fresh = "config.json.new";
  kernel::call(SYS_unlinkat, dir.get(), fresh, 0);
  UniqueFd file = kernel::open_at(dir.get(), fresh, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
  kernel::write_all(file.get(), config, fresh);
  kernel::must(kernel::call(SYS_renameat2, dir.get(), fresh, dir.get(), "config.json", 0), "write",
               path_ + "/config.json");
}

}  // namespace stasis::cli
