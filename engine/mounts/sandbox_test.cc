#include "engine/mounts/sandbox_test.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <exception>

#include "base/error.h"
#include "engine/image/image.h"
#include "kernel/fs.h"

namespace stasis::engine::mounts::test {

Sandbox::Sandbox(const std::function<void()>& setup, int more) {
  int said[2], stay[2];
  if (pipe2(said, O_CLOEXEC) || pipe2(stay, O_CLOEXEC)) throw Error("make", "pipes");
  int flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWNET | more;
  pid_ = static_cast<pid_t>(syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0));
  if (pid_ == 0) {
    close(said[0]);
    close(stay[1]);
    std::string text = "ok";
    try {
      setup();
    } catch (const std::exception& error) {
      text = error.what();
    }
    [[maybe_unused]] auto n = write(said[1], text.data(), text.size());
    close(said[1]);
    char byte;
    n = read(stay[0], &byte, 1);
    _exit(0);
  }
  close(said[1]);
  close(stay[0]);
  stay_ = stay[1];
  char text[1000];
  auto n = read(said[0], text, sizeof text);
  close(said[0]);
  outcome_.assign(text, n > 0 ? static_cast<size_t>(n) : 0);
}

Sandbox::~Sandbox() {
  close(stay_);
  waitpid(pid_, nullptr, 0);
}

std::vector<std::string> picture(const mountmap::MountTable& table) {
  std::vector<std::string> result;
  std::map<int, size_t> index;
  std::map<int, size_t> groups;
  auto group = [&groups](int id) {
    return id ? groups.emplace(id, groups.size() + 1).first->second : 0;
  };
  for (const auto& mount : table.mounts()) index.emplace(mount.id, index.size());
  for (const auto& mount : table.mounts()) {
    std::string parent = index.count(mount.parent) ? std::to_string(index[mount.parent]) : "-";
    result.push_back(fmt::format("{} on {}: {} {} {} from {} [{}] {:x} {:x} shared {} master {}{}",
                                 index[mount.id], parent, mount.mountpoint, mount.root,
                                 mount.fstype, mount.source, mount.sb_options, mount.flags,
                                 mount.sb_flags, group(mount.shared), group(mount.master),
                                 mount.unbindable ? " unbindable" : ""));
  }
  return result;
}

DumpPlan plan_of(const Sandbox& sandbox, const std::map<std::string, std::string>& keys) {
  DumpPlan plan;
  plan.root = sandbox.pid();
  plan.mounts = sandbox.table();
  for (const auto& mount : plan.mounts.mounts())
    if (auto key = keys.find(mount.mountpoint); key != keys.end())
      plan.external_mounts[mount.id] = key->second;
  return plan;
}

image::Checkpoint dump_to(const std::string& dir, const DumpPlan& plan) {
  NullLog log;
  UniqueFd fd = kernel::open(dir, O_RDONLY | O_DIRECTORY);
  image::ImageWriter writer(fd.get());
  dump(plan, {1}, writer, log);
  image::InventoryEntry inventory;
  inventory.set_img_version(image::image_version);
  writer.publish(inventory);
  image::Checkpoint checkpoint;
  checkpoint.dir = image::ImageDir::open(fd.get());
  checkpoint.mounts[1] = checkpoint.dir.all<image::MntEntry>("mountpoints-1");
  checkpoint.tasks.resize(1);
  checkpoint.tasks[0].ids.set_mnt_ns_id(1);
  return checkpoint;
}

std::unique_ptr<Sandbox> rebuild(const image::Checkpoint& checkpoint, const RestorePlan& plan,
                                 int more) {
  NullLog log;
  Builder builder(checkpoint, plan, log);
  return std::make_unique<Sandbox>([&] { builder.build(); }, more);
}

}  // namespace stasis::engine::mounts::test
