#include "cli/plan.h"

#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"

using namespace stasis;
namespace fs = std::filesystem;

namespace {

struct Bundle {
  fs::path path;
  Bundle() {
    char name[] = "/tmp/stasis-plan-XXXXXX";
    path = mkdtemp(name);
    std::ofstream(path / "hosts") << "127.0.0.1";
    std::ofstream(path / "config.json")
        << R"({"mounts":[{"destination":"/proc","type":"proc","source":"proc"},)"
        << R"({"destination":"/etc/hosts","type":"bind","source":"hosts"},)"
        << R"({"destination":"/a\u001bb","type":"tmpfs","source":"t"}]})";
  }
  ~Bundle() { fs::remove_all(path); }
};

struct Answer {
  int code = 0;
  std::string text;
};

Answer ask(cli::PlanOptions options) {
  char* text = nullptr;
  size_t size = 0;
  FILE* out = open_memstream(&text, &size);
  Answer answer;
  answer.code = cli::plan(options, out);
  fclose(out);
  answer.text.assign(text, size);
  free(text);
  return answer;
}

cli::PlanOptions of_bundle(const Bundle& bundle) {
  cli::PlanOptions options;
  options.container.bundle = bundle.path;
  options.container.runc_root = "/nonexistent";
  return options;
}

}  // namespace

TEST_CASE("the plan of a bundle, for people") {
  Bundle bundle;
  auto answer = ask(of_bundle(bundle));
  CHECK(answer.code == 0);
  CHECK(answer.text.find("MOUNTPOINT  CLASS") != std::string::npos);
  CHECK(answer.text.find("/etc/hosts  external  file   /etc/hosts  " +
                         (bundle.path / "hosts").string()) != std::string::npos);
  // Names in a config don't reach the terminal as they are.
  CHECK(answer.text.find('\033') == std::string::npos);
  CHECK(answer.text.find("/a\\033b") != std::string::npos);
}

TEST_CASE("what stands in the way is the verdict and the exit code") {
  Bundle bundle;
  fs::remove(bundle.path / "hosts");
  auto options = of_bundle(bundle);
  options.json = true;
  auto answer = ask(options);
  CHECK(answer.code == 1);
  auto json = nlohmann::json::parse(answer.text);
  CHECK(json["checkpointable"] == false);
  CHECK(json["verdict"] == "can't be checkpointed: one thing stands in the way");
  CHECK(json["findings"][0]["severity"] == "obstacle");
  CHECK(json["mounts"][1]["key"] == "/etc/hosts");
  CHECK(json["mounts"][1]["class"] == "external");
}

TEST_CASE("a container that isn't there, and a bundle that doesn't run") {
  cli::ContainerQuery query;
  query.id = "none";
  query.runc_root = "/nonexistent";
  CHECK_THROWS_AS(cli::open_container(query), Error);
  Bundle bundle;
  auto container = cli::open_container(of_bundle(bundle).container);
  CHECK(container.init == 0);
  CHECK_THROWS_AS(cli::build_dump_plan(container), Error);
}
