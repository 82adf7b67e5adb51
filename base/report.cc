#include "base/report.h"

#include <nlohmann/json.hpp>

namespace stasis {

using nlohmann::json;

std::string to_report(const Error& e) {
  return json{{"operation", e.operation()},
              {"subject", e.subject()},
              {"errno", e.code()},
              {"cause", e.cause()},
              {"hint", e.remedy()}}
      .dump(-1, ' ', false, json::error_handler_t::replace);
}

Error from_report(const std::string& report) {
  json r = json::parse(report);
  return Error(r["operation"], r["subject"])
      .with_errno(r["errno"])
      .because(r["cause"])
      .hint(r["hint"]);
}

}  // namespace stasis
