#include "hook/confinement.h"

#include <fmt/format.h>
#include <sys/syscall.h>

#include <bit>
#include <set>

#include "base/text.h"
#include "kernel/fs.h"
#include "oci/capability.h"

namespace stasis::hook {

namespace {

uint64_t as_set(const google::protobuf::RepeatedField<uint32_t>& words) {
  uint64_t set = 0;
  for (int i = 0; i < words.size() && i < 2; ++i) set |= uint64_t{words.Get(i)} << (32 * i);
  return set;
}

std::string name_of(const image::TaskImage& task) {
  return fmt::format("process {} ({})", task.tree.pid(), task.core().comm());
}

}  // namespace

void check_privileges(const image::Checkpoint& checkpoint, const oci::Config& config) {
  for (const image::TaskImage& task : checkpoint.tasks)
    for (const image::CoreEntry& thread : task.threads) {
      const image::CredsEntry& creds = thread.thread_core().creds();
      uint64_t has = as_set(creds.cap_prm()) | as_set(creds.cap_bnd());
      uint64_t more = has & ~config.capabilities;
      if (more == 0) continue;
      throw Error("restore", name_of(task))
          .because(fmt::format("it had {}, which config.json doesn't give the container",
                               oci::capability_name(static_cast<unsigned>(std::countr_zero(more)))))
          .hint("add it to process.capabilities, or checkpoint the container without it");
    }
}

std::string label_of(pid_t pid) {
  std::string path = fmt::format("/proc/{}/attr/current", pid);
  long fd = kernel::call(SYS_openat, AT_FDCWD, path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return {};
  UniqueFd file(static_cast<int>(fd));
  char label[4096];
  long size = kernel::call(SYS_read, file.get(), label, sizeof label);  // EINVAL without a module
  if (size <= 0) return {};
  std::string_view text(label, static_cast<size_t>(size));
  text = text::trim(text.substr(0, text.find('\0')));
  text = text.substr(0, text.find(" ("));  // "profile (enforce)"
  return std::string(text == "unconfined" ? std::string_view{} : text);
}

void check_label(const image::Checkpoint& checkpoint, const std::string& label, Log& log) {
  std::set<std::string> told;
  for (const image::TaskImage& task : checkpoint.tasks)
    for (const image::CoreEntry& thread : task.threads) {
      const std::string& then = thread.thread_core().creds().lsm_profile();
      if (then.empty() || then == label) continue;
      if (label.empty())
        throw Error("restore", name_of(task))
            .because(fmt::format(
                "it was confined by {} ({}), and the new container is confined by no such label",
                then, checkpoint.inventory.lsmtype() == image::APPARMOR ? "AppArmor" : "SELinux"))
            .hint("name one in config.json: process.apparmorProfile or process.selinuxLabel");
      if (told.insert(then).second)
        log.warn("{} was confined by {}; now it is by {}, as config.json says", name_of(task), then,
                 label);
    }
}

}  // namespace stasis::hook
