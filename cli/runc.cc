#include "cli/runc.h"

#include <spawn.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "base/error.h"
#include "base/text.h"
#include "base/unique_fd.h"
#include "kernel/fs.h"

namespace stasis::cli {
namespace {

// Our descriptors are close-on-exec; stderr alone may be exchanged.
pid_t spawn(const std::string& runc, const std::vector<std::string>& arguments, int stderr_fd) {
  std::vector<char*> argv = {const_cast<char*>(runc.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  if (stderr_fd >= 0) posix_spawn_file_actions_adddup2(&actions, stderr_fd, STDERR_FILENO);
  pid_t pid = 0;
  int code = posix_spawnp(&pid, runc.c_str(), &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (code != 0)
    throw Error("run", runc).with_errno(code).hint("install runc or name it with --runtime PATH");
  return pid;
}

}  // namespace

RuncResult run_runc(const std::string& runc, const std::vector<std::string>& arguments,
                    bool inherit_stderr) {
  UniqueFd text;
  if (!inherit_stderr)
    text.reset(static_cast<int>(kernel::must(
        kernel::call(SYS_memfd_create, "runc-stderr", MFD_CLOEXEC), "make", "a memory file")));
  pid_t pid = spawn(runc, arguments, text.get());
  int status = 0;
  long waited = 0;
  do waited = kernel::call(SYS_wait4, pid, &status, 0, 0);
  while (waited == -EINTR);
  kernel::must(waited, "wait for", runc);
  RuncResult result;
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  if (text) {
    kernel::call(SYS_lseek, text.get(), 0, SEEK_SET);
    result.complaint = text::trim(kernel::read_all(text.get(), "runc's messages", 1 << 20));
  }
  return result;
}

}  // namespace stasis::cli
