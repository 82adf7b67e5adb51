// The first task of a restored container: cloned into its new namespaces,
// where our own code first builds what only the inside can build, and then
// taken over to become the dumped init.
#pragma once

#include <functional>
#include <string>

#include "base/unique_fd.h"
#include "engine/namespaces/namespaces.h"
#include "engine/plan.h"
#include "engine/remote/tracee.h"

namespace stasis::engine {

class RootTask {
 public:
  // Clones it; it waits for build(). From here on our death is its death, and
  // ~RootTask kills and reaps it unless keep() was called.
  RootTask(const namespaces::Layout& layout, pid_t ns_pid, bool sibling,
           const std::function<std::string()>& inside);
  ~RootTask();
  RootTask(const RootTask&) = delete;
  RootTask& operator=(const RootTask&) = delete;

  pid_t pid() const { return pid_; }
  // Lets `inside` run to its end in the task; returns what it returned and
  // rethrows here what it threw. Afterwards the task is stopped and ours.
  std::string build();
  Tracee& tracee() { return tracee_; }
  void keep() { kept_ = true; }

 private:
  [[noreturn]] void run_inside(int channel, const std::function<std::string()>& inside);
  Error ended();  // why, where it has closed the channel

  UniqueFd channel_;
  pid_t pid_ = 0;
  Tracee tracee_;
  bool kept_ = false;
};

}  // namespace stasis::engine
