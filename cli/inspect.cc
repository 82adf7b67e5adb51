#include "cli/inspect.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/core.h>
#include <fmt/ranges.h>
#include <sys/syscall.h>

#include <algorithm>
#include <filesystem>

#include "base/text.h"
#include "cli/fit.h"
#include "cli/image_dir.h"
#include "cli/image_view.h"
#include "cli/page.h"
#include "cli/progress.h"
#include "kernel/fs.h"
#include "mountmap/map_json.h"

namespace stasis::cli {
namespace {

namespace fs = std::filesystem;
using mountmap::MapFinding;
using mountmap::Severity;
using Json = nlohmann::ordered_json;

// The engine says who it is in its log, which callers often leave beside the
// images.
std::string maker_by_log(int dir) {
  constexpr int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
  long fd = kernel::try_open_in(dir, "dump.log", flags, RESOLVE_BENEATH);
  if (fd < 0) return {};
  UniqueFd log(static_cast<int>(fd));
  std::string head(4096, '\0');
  long size = kernel::call(SYS_read, log.get(), head.data(), head.size());
  head.resize(static_cast<size_t>(std::max(size, 0L)));
  std::string_view rest = head;
  while (!rest.empty()) {
    std::string_view line = text::next(rest, '\n');
    size_t at = line.find("Version: ");
    if (at == line.npos) continue;
    line.remove_prefix(at + 9);
    std::string name(line.substr(0, line.find(" (")));
    return name.starts_with("stasis") ? name : "CRIU " + name;
  }
  return {};
}

// Images have no field for it.
std::string maker(int dir, const image::InventoryEntry& inventory, const Manifest& manifest) {
  if (!manifest.id.empty()) return "stasis";
  if (std::string name = maker_by_log(dir); !name.empty()) return name;
  // Fields that CRIU 4 always writes.
  return inventory.has_plugins_entry() || inventory.has_dump_criu_run_id() ? "CRIU" : "";
}

Json header(const InspectOptions& options, int dir, const image::InventoryEntry& inventory,
            const Manifest& manifest) {
  Json json{{"image", options.image}};
  if (std::string name = maker(dir, inventory, manifest); !name.empty()) json["made_by"] = name;
  // Written last; copies keep it as long as they keep times.
  UniqueFd file = kernel::open_at(dir, "inventory.img", O_PATH | O_NOFOLLOW);
  auto seconds = kernel::stat_fd(file.get(), STATX_MTIME).stx_mtime.tv_sec;
  json["written"] = fmt::format("{:%FT%TZ}", fmt::gmtime(static_cast<time_t>(seconds)));
  if (inventory.has_dump_uptime()) json["uptime_s"] = inventory.dump_uptime() / 1'000'000;
  if (!manifest.id.empty()) json["id"] = manifest.id;
  if (!manifest.bundle.empty()) json["bundle"] = manifest.bundle;
  return json;
}

// --- for people ---

std::string text_of(const Json& json, const char* name) {
  auto found = json.find(name);
  if (found == json.end()) return {};
  return found->is_string() ? printable(found->get_ref<const std::string&>()) : found->dump();
}

std::string or_dash(std::string s) { return s.empty() ? "-" : s; }

std::string pids(const Json& list) {
  return fmt::format("{}", fmt::join(list.get<std::vector<uint32_t>>(), ","));
}

void print_mounts(const Json& space, Page& page) {
  std::vector<Cells> rows{{{"ID", "", true},
                           {"PARENT", "", true},
                           {"MOUNTPOINT"},
                           {"CLASS"},
                           {"ROOT OR KEY"},
                           {"TYPE"},
                           {"SOURCE"},
                           {"FLAGS"}}};
  for (const Json& mount : space["mounts"]) {
    std::string kind = text_of(mount, "class"), flags = text_of(mount, "flags");
    bool external = kind == "external";
    if (mount.contains("shared")) flags += " shared:" + text_of(mount, "shared");
    if (mount.contains("master")) flags += " master:" + text_of(mount, "master");
    if (mount.contains("unbindable")) flags += " unbindable";
    if (mount.contains("deleted")) flags += " deleted";
    auto style = style_of(external         ? mountmap::MountClass::external
                          : kind == "root" ? mountmap::MountClass::root
                                           : mountmap::MountClass::own);
    rows.push_back({{text_of(mount, "id"), "", true},
                    {text_of(mount, "parent"), "", true},
                    {text_of(mount, "mountpoint")},
                    {kind, style},
                    {external ? "key " + text_of(mount, "key") : text_of(mount, "root")},
                    {or_dash(text_of(mount, "type"))},
                    {or_dash(text_of(mount, "source"))},
                    {flags}});
  }
  page.table(rows);
  for (const Json& mount : space["mounts"]) {
    if (!mount.contains("details") || mount["details"].empty()) continue;
    page.line(fmt::format("{} ({}):", text_of(mount, "mountpoint"), text_of(mount, "provider")));
    for (const Json& line : mount["details"]) page.line("  " + printable(line.get<std::string>()));
  }
}

void print_all_mounts(const Json& json, Page& page) {
  const Json& spaces = json["mount_namespaces"];
  for (const Json& space : spaces) {
    page.line();
    page.line(page.paint("1;4", spaces.size() == 1
                                    ? "Mounts"
                                    : fmt::format("Mounts of tasks {}", pids(space["tasks"]))));
    print_mounts(space, page);
  }
}

void print_tasks(const Json& json, Page& page) {
  std::vector<Cells> rows{{{"PID", "", true},
                           {"PARENT", "", true},
                           {"GROUP", "", true},
                           {"SESSION", "", true},
                           {"THREADS", "", true},
                           {"MEMORY", "", true},
                           {"STATE"},
                           {"COMM"},
                           {"EXE"}}};
  for (const Json& task : json["tasks"])
    rows.push_back({{text_of(task, "pid"), "", true},
                    {text_of(task, "parent"), "", true},
                    {text_of(task, "group"), "", true},
                    {text_of(task, "session"), "", true},
                    {std::to_string(task["threads"].size()), "", true},
                    {human_bytes(task["memory_bytes"]), "", true},
                    {text_of(task, "state")},
                    {or_dash(text_of(task, "comm"))},
                    {or_dash(text_of(task, "exe"))}});
  page.line();
  page.line(page.paint("1;4", "Tasks"));
  page.table(rows);
  const Json& memory = json["memory"];
  page.line(fmt::format(
      "{} of memory{}", human_bytes(memory["private_bytes"]),
      memory["shared_bytes"] == 0 ? "" : ", and shared: " + human_bytes(memory["shared_bytes"])));
}

void print_files(const Json& json, Page& page) {
  std::vector<Cells> rows{{{"TASK"}, {"FD", "", true}, {"KIND"}, {"ACCESS"}, {"NAME"}}};
  for (const Json& file : json["files"])
    rows.push_back({{pids(file["tasks"])},
                    {text_of(file, "fd"), "", true},
                    {text_of(file, "kind")},
                    {or_dash(text_of(file, "access"))},
                    {or_dash(text_of(file, "name"))}});
  page.line();
  page.line(page.paint("1;4", "Open files"));
  page.table(rows);
}

void print_namespaces(const Json& json, Page& page) {
  std::vector<Cells> rows{{{"NAMESPACE"}, {"OF"}, {"DETAIL"}}};
  for (const Json& space : json["namespaces"]) {
    std::string detail = text_of(space, "detail");
    if (space.contains("key")) detail = "key " + text_of(space, "key");
    if (space.contains("count")) detail += " (and others below it)";
    rows.push_back({{text_of(space, "kind")}, {text_of(space, "of")}, {or_dash(detail)}});
  }
  page.line();
  page.line(page.paint("1;4", "Namespaces"));
  page.table(rows);
}

void print_header(const Json& json, Page& page) {
  std::string made = json.contains("made_by") ? "made by " + text_of(json, "made_by")
                                              : "the images don't tell who made it";
  page.line(fmt::format("checkpoint {}: {}, written {}", text_of(json, "image"), made,
                        text_of(json, "written")));
  if (json.contains("id"))
    page.line(fmt::format("container {}, bundle {}", text_of(json, "id"), text_of(json, "bundle")));
}

// One line a finding.
void print_findings(const std::vector<MapFinding>& findings, Page& page) {
  if (!findings.empty()) page.line();
  for (const MapFinding& finding : findings)
    page.line(
        page.paint(style_of(finding.severity), fmt::format("{}:", name_of(finding.severity))) +
        " " + printable(one_line(finding)));
}

void print_verdict(const Json& json, Page& page) {
  if (!json.contains("fits")) return;
  bool fits = json["fits"];
  page.line();
  page.line(page.paint(fits ? "1;32" : "1;31", "Verdict: " + text_of(json, "verdict") + "."));
}

void print(const Json& json, const std::vector<MapFinding>& findings, Page& page) {
  print_header(json, page);
  print_namespaces(json, page);
  print_all_mounts(json, page);
  print_tasks(json, page);
  print_files(json, page);
  print_findings(findings, page);
  print_verdict(json, page);
}

// What load() would refuse stands in a restore's way, though it can be shown.
std::vector<MapFinding> complaints_of(const image::Survey& survey) {
  std::vector<MapFinding> findings;
  for (const Error& error : survey.complaints)
    findings.push_back({Severity::obstacle, error.subject(), error.cause(), error.remedy()});
  return findings;
}

void add_diff(Json& json, std::vector<MapFinding>& findings, const InspectOptions& options,
              const image::Survey& survey, const Manifest& manifest) {
  std::string bundle = fs::absolute(options.diff).lexically_normal().string();
  oci::Config config = oci::read_config(bundle);
  for (MapFinding& finding : compare(survey.image, config, manifest.sources))
    findings.push_back(std::move(finding));
  auto count = std::count_if(findings.begin(), findings.end(), is_obstacle);
  json["fits"] = count == 0;
  json["verdict"] =
      count == 0
          ? "it can be restored from bundle " + bundle
          : fmt::format("it can't be restored from bundle {}: {} in the way", bundle,
                        count == 1 ? "one thing stands" : fmt::format("{} things stand", count));
}

}  // namespace

int inspect(const InspectOptions& given, FILE* out) {
  InspectOptions options = given;
  bool is_path =
      options.image.find('/') != options.image.npos || fs::exists(options.image + "/inventory.img");
  if (!is_path) options.image = default_image_dir(options.image);
  Manifest manifest = read_manifest(options.image);
  UniqueFd dir = kernel::open(options.image, O_RDONLY | O_DIRECTORY);
  image::Survey survey = image::survey(image::ImageDir::open(dir.get()));
  Json json = header(options, dir.get(), survey.image.inventory, manifest);
  json.update(view(survey.image));
  std::vector<MapFinding> findings = complaints_of(survey);
  if (!options.diff.empty()) add_diff(json, findings, options, survey, manifest);
  if (options.json) {
    json["findings"] = Json::array();
    for (const MapFinding& finding : findings)
      json["findings"].push_back(Json(mountmap::to_json(finding)));
    fmt::print(out, "{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
  } else {
    Page page(out, options.color);
    print(json, findings, page);
  }
  return json.value("fits", true) ? 0 : 1;
}

}  // namespace stasis::cli
