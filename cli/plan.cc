#include "cli/plan.h"

#include <fmt/core.h>

#include <algorithm>

#include "cli/obstacles.h"
#include "cli/page.h"
#include "mountmap/map_json.h"

namespace stasis::cli {

namespace {

using mountmap::MapFinding;
using mountmap::MapRow;
using mountmap::MountClass;
using mountmap::Severity;

Cells cells(const MapRow& row) {
  bool external = row.kind == MountClass::external;
  return {{printable(row.mount.mountpoint)},
          {std::string(name_of(row.kind)), style_of(row.kind)},
          {printable(external ? name_of(row.external) : std::string_view(row.mount.fstype))},
          {external ? printable(row.key) : "-"},
          {row.source.empty() ? "-" : printable(row.source)},
          {printable(row.reason)}};
}

void print_table(const mountmap::MountMap& map, Page& page) {
  std::vector<Cells> rows{{{"MOUNTPOINT"}, {"CLASS"}, {"KIND"}, {"KEY"}, {"SOURCE"}, {"WHY"}}};
  for (const auto& row : map.rows) rows.push_back(cells(row));
  page.table(rows);
}

void print_details(const mountmap::MountMap& map, Page& page) {
  for (const auto& row : map.rows) {
    if (row.details.empty()) continue;
    page.line("");
    page.line(fmt::format("{} ({}):", printable(row.mount.mountpoint), row.provided.provider));
    for (const std::string& line : row.details) page.line("  " + printable(line));
  }
}

void print_findings(const std::vector<MapFinding>& findings, Page& page) {
  for (const auto& finding : findings) {
    page.line(fmt::format(
        "{} {} {}",
        page.paint(style_of(finding.severity), fmt::format("{}:", name_of(finding.severity))),
        printable(finding.subject), printable(finding.what)));
    page.line("  -> " + printable(finding.remedy));
  }
}

std::string title(const Container& container) {
  if (container.init <= 0)
    return "bundle " + printable(container.bundle) + ": not running, as config.json tells";
  if (container.id.empty()) return fmt::format("process {}", container.init);
  return fmt::format("container {}: process {}, bundle {}", container.id, container.init,
                     printable(container.bundle));
}

struct Verdict {
  bool good = false;
  std::string text;
};

Verdict judge(const Container& container, const std::vector<MapFinding>& findings) {
  auto count = std::count_if(findings.begin(), findings.end(), [](const auto& finding) {
    return finding.severity == Severity::obstacle;
  });
  if (count > 0)
    return {false,
            fmt::format("can't be checkpointed: {} in the way",
                        count == 1 ? "one thing stands" : fmt::format("{} things stand", count))};
  if (container.init <= 0)
    return {true, "a container of this bundle could be checkpointed, as far as its mounts go"};
  auto external = container.map.external_mounts().size();
  return {true, fmt::format("can be checkpointed: {} mounts, {} of them external",
                            container.map.rows.size(), external)};
}

void print_json(const Container& container, const std::vector<MapFinding>& findings,
                const Verdict& verdict, FILE* out) {
  nlohmann::json json;
  if (!container.id.empty()) json["id"] = container.id;
  if (!container.bundle.empty()) json["bundle"] = container.bundle;
  if (container.init > 0) json["pid"] = container.init;
  json["mounts"] = nlohmann::json::array();
  for (const auto& row : container.map.rows) json["mounts"].push_back(mountmap::to_json(row));
  json["findings"] = nlohmann::json::array();
  for (const auto& finding : findings) json["findings"].push_back(mountmap::to_json(finding));
  json["checkpointable"] = verdict.good;
  json["verdict"] = verdict.text;
  fmt::print(out, "{}", mountmap::dump_json(json));
}

}  // namespace

int plan(const PlanOptions& options, FILE* out) {
  Container container = open_container(options.container);
  auto findings = findings_of(container, options.container.runc_root);
  Verdict verdict = judge(container, findings);
  if (options.json) {
    print_json(container, findings, verdict, out);
  } else {
    Page page(out, options.color);
    page.line(title(container));
    page.line("");
    print_table(container.map, page);
    print_details(container.map, page);
    page.line("");
    print_findings(findings, page);
    page.line(page.paint(verdict.good ? "1;32" : "1;31", "Verdict: " + verdict.text + "."));
  }
  return verdict.good ? 0 : 1;
}

}  // namespace stasis::cli
