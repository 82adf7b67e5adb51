// For the tests of this room: a child process that opens things, what is
// written down of it, and what is made again of that.
#pragma once

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/wait.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/files/dumper.h"
#include "engine/files/restorer.h"
#include "engine/files/unix_doer.h"
#include "engine/image/checkpoint.h"
#include "engine/scratch_test.h"
#include "kernel/fs.h"

namespace stasis::engine::files {

inline bool may_examine() {
  if (geteuid() == 0) return true;
  WARN("skipped: needs root to take duplicates of another process's descriptors");
  return false;
}

// A process without any descriptor but those that `open_things` opens.
class Child {
 public:
  explicit Child(const std::function<void()>& open_things) {
    int ready[2];
    if (pipe(ready) != 0) throw std::runtime_error("pipe");
    pid_ = fork();
    if (pid_ == 0) {
      dup3(ready[1], 1000, O_CLOEXEC);
      close_range(0, 999, 0);
      open_things();
      (void)!write(1000, "x", 1);
      close_range(1000, ~0U, 0);
      for (;;) pause();
    }
    close(ready[1]);
    char byte;
    while (read(ready[0], &byte, 1) > 0) continue;  // until all is open and closed
    close(ready[0]);
    kill(pid_, SIGSTOP);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  pid_t pid() const { return pid_; }
  // What the kernel says of a descriptor, less what another process must differ in.
  kernel::FdInfo info(int fd) const {
    return kernel::parse_fdinfo(kernel::read_file(fmt::format("/proc/{}/fdinfo/{}", pid_, fd)));
  }
  std::string link(int fd) const {
    return kernel::read_link(fmt::format("/proc/{}/fd/{}", pid_, fd));
  }

 private:
  pid_t pid_ = -1;
};

inline std::vector<image::PipeData> pipe_data(const image::ImageDir& dir, const std::string& stem) {
  std::vector<image::PipeData> all;
  if (!dir.has(stem)) return all;
  image::Reader reader = dir.read(stem);
  for (image::PipeDataEntry entry; reader.next(entry);)
    all.push_back({entry, std::string(reader.payload(entry.bytes()))});
  return all;
}

// The files part of a checkpoint of these processes.
struct Written {
  Scratch scratch;
  image::Checkpoint checkpoint;
  uint32_t path_id = 0;

  explicit Written(std::vector<pid_t> pids, const std::string& path_link = {},
                   const std::function<void(DumpPlan&)>& change = {}) {
    DumpPlan plan;
    plan.root = pids.front();
    plan.mounts = mountmap::MountTable::read(plan.root);
    if (change) change(plan);
    NullLog log;
    {
      image::ImageWriter writer(scratch.fd());
      Dumper dumper(plan, writer, log);
      uint32_t table = 1;
      for (pid_t pid : pids) dumper.descriptors(pid, kernel::pidfd_open(pid).get(), table++);
      if (!path_link.empty()) path_id = dumper.path_file(plan.root, path_link, O_RDONLY).id;
      dumper.queues();
      dumper.finish();
      writer.flush();
      image::InventoryEntry inventory;
      inventory.set_img_version(1);
      writer.publish(inventory);
    }
    checkpoint.dir = image::ImageDir::open(scratch.fd());
    for (auto& entry : checkpoint.dir.all<image::FileEntry>("files"))
      checkpoint.files[entry.id()] = entry;
    for (uint32_t table = 1; table <= pids.size(); ++table) {
      checkpoint.tasks.emplace_back().fds =
          checkpoint.dir.all<image::FdinfoEntry>(fmt::format("fdinfo-{}", table));
    }
    checkpoint.remaps = checkpoint.dir.all<image::RemapFilePathEntry>("remap-fpath");
    checkpoint.pipes = pipe_data(checkpoint.dir, "pipes-data");
    checkpoint.fifos = pipe_data(checkpoint.dir, "fifo-data");
  }
};

// What was made again, by the numbers that it had.
class Again {
 public:
  explicit Again(const image::Checkpoint& checkpoint, RestorePlan plan = {})
      : plan_(std::move(plan)),
        root_(kernel::open("/", O_PATH)),
        restorer(checkpoint, plan_, log_) {
    restorer.set_root(root_.get());
    UnixDoer doer;
    restorer.unite_sockets(doer);
    for (const image::TaskImage& task : checkpoint.tasks) {
      auto& table = tables_.emplace_back();
      for (auto slot : restorer.descriptors(task)) table[slot.target] = slot;
    }
    restorer.finish_sockets({});
  }
  int operator[](int number) { return of(0, number).ours; }
  Restorer::Slot of(size_t task, int number) {
    REQUIRE(tables_[task].contains(number));
    return tables_[task][number];
  }
  size_t size() const { return tables_[0].size(); }

 private:
  NullLog log_;
  RestorePlan plan_;
  UniqueFd root_;
  std::vector<std::map<int, Restorer::Slot>> tables_;

 public:
  Restorer restorer;
};

inline kernel::FdInfo info_of(int fd) {
  return kernel::parse_fdinfo(kernel::read_file(fmt::format("/proc/self/fdinfo/{}", fd)));
}

inline void check_same(const Child& child, Again& again, int number) {
  INFO("descriptor " << number << ": " << child.link(number));
  auto was = child.info(number), is = info_of(again[number]);
  CHECK(is.pos == was.pos);
  CHECK((is.flags & ~O_CLOEXEC) == (was.flags & ~O_CLOEXEC));
  CHECK(again.of(0, number).cloexec == ((was.flags & O_CLOEXEC) != 0));
  CHECK(is.mnt_id == was.mnt_id);
}

inline std::string read_some(int fd) {
  char bytes[65536];
  long n = read(fd, bytes, sizeof bytes);
  return n < 0 ? "error" : std::string(bytes, static_cast<size_t>(n));
}

inline void put(const std::string& path, const std::string& text) {
  UniqueFd fd = kernel::open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  kernel::write_all(fd.get(), text, path);
}

}  // namespace stasis::engine::files
