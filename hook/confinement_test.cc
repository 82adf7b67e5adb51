#include "hook/confinement.h"

#include <unistd.h>

#include <catch2/catch.hpp>

#include "base/error.h"

namespace stasis::hook {

namespace {

class Kept : public Log {
 public:
  void write(LogLevel, std::string_view line) override { said += line; }
  std::string said;
};

image::Checkpoint labelled(const std::string& label) {
  image::Checkpoint checkpoint;
  image::TaskImage task;
  task.tree.set_pid(7);
  task.threads.emplace_back().mutable_tc()->set_comm("web");
  if (!label.empty())
    task.threads.front().mutable_thread_core()->mutable_creds()->set_lsm_profile(label);
  checkpoint.tasks.push_back(task);
  checkpoint.inventory.set_lsmtype(image::APPARMOR);
  return checkpoint;
}

}  // namespace

TEST_CASE("The container's label takes the place of the checkpoint's, unless there is none") {
  Kept log;
  check_label(labelled(""), "", log);
  check_label(labelled(""), "strict", log);
  check_label(labelled("strict"), "strict", log);
  CHECK(log.said.empty());
  check_label(labelled("strict"), "other", log);
  CHECK(log.said ==
        "process 7 (web) was confined by strict; now it is by other, as config.json says");
  CHECK_THROWS_WITH(check_label(labelled("strict"), "", log),
                    Catch::Contains("process 7 (web)") && Catch::Contains("strict (AppArmor)"));
}

TEST_CASE("What the new container doesn't give is refused") {
  oci::Config config;
  image::Checkpoint checkpoint = labelled("");
  auto* creds = checkpoint.tasks.front().threads.front().mutable_thread_core()->mutable_creds();
  creds->add_cap_prm(1U << 21);
  CHECK_THROWS_WITH(check_privileges(checkpoint, config), Catch::Contains("CAP_SYS_ADMIN"));
  config.capabilities = uint64_t{1} << 21;
  CHECK_NOTHROW(check_privileges(checkpoint, config));
}

}  // namespace stasis::hook
