#include "engine/files/restorer.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sched.h>
#include <sys/syscall.h>

#include <set>

#include "engine/files/epoll.h"
#include "engine/files/file_kind.h"
#include "engine/files/memfd.h"
#include "engine/files/owner.h"
#include "engine/files/regular.h"
#include "engine/files/reopen.h"
#include "engine/files/unix_family.h"
#include "engine/image/checkpoint.h"
#include "engine/namespaces/namespaces.h"
#include "kernel/call.h"

namespace stasis::engine::files {

Restorer::Restorer(const image::Checkpoint& image, const RestorePlan& plan, Log& log)
    : image_(image), plan_(plan), log_(log), ids_(image.userns) {
  raise_descriptor_limit();
}

Restorer::~Restorer() = default;

int Restorer::root_of(const image::RegFileEntry& file) const { return root_of(file.mnt_id()); }

int Restorer::root_of(int id) const {
  if (root_ < 0) throw Error("open the container's files", "").because("it has no root yet");
  for (const auto& [ns_id, root] : nested_roots_)
    for (const image::MntEntry& mount : image_.mounts.at(ns_id))
      if (id >= 0 && mount.mnt_id() == static_cast<uint32_t>(id)) return root.get();
  return root_;
}

int Restorer::hidden(uint32_t file_id) const {
  auto found = hidden_.find(file_id);
  return found == hidden_.end() ? -1 : found->second.get();
}

const std::map<uint32_t, image::FileEntry>& Restorer::entries() const { return image_.files; }

const image::FileEntry& Restorer::entry(uint32_t file_id) const {
  auto found = image_.files.find(file_id);
  if (found == image_.files.end())
    throw Error("restore", fmt::format("file {}", file_id)).because("it isn't in files.img");
  return found->second;
}

int Restorer::inherited(const std::string& key) const {
  auto found = plan_.inherited_fds.find(key);
  return found == plan_.inherited_fds.end() ? -1 : found->second;
}

int Restorer::get(uint32_t file_id) {
  if (auto found = made_.find(file_id); found != made_.end()) return found->second.get();
  const image::FileEntry& wanted = entry(file_id);
  const FileKind* kind = kind_of(wanted.type());
  if (!kind)
    throw Error("restore", fmt::format("file {}", file_id))
        .because(fmt::format("files of type {} are not supported yet",
                             image::FdTypes_Name(wanted.type())));
  UniqueFd fd = kind->make(*this, wanted);
  log_.debug("file {}: {} as our descriptor {}", file_id, kind->name, fd.get());
  return made_.emplace(file_id, std::move(fd)).first->second.get();
}

UniqueFd Restorer::open_for_mapping(uint32_t file_id, uint32_t fdflags) {
  const image::FileEntry& wanted = entry(file_id);
  if (wanted.type() == image::MEMFD) return open_memory(*this, wanted.memfd(), fdflags);
  if (wanted.type() != image::REG)
    throw Error("map", fmt::format("file {}", file_id))
        .because(
            fmt::format("files of type {} cannot be mapped", image::FdTypes_Name(wanted.type())));
  return open_path(*this, wanted.reg(), fdflags);
}

std::vector<Restorer::Slot> Restorer::descriptors(const image::TaskImage& task) {
  std::vector<Slot> slots;
  slots.reserve(task.fds.size());
  for (const image::FdinfoEntry& fd : task.fds) {
    if (entry(fd.id()).type() != fd.type())
      throw Error("restore", fmt::format("descriptor {}", fd.fd()))
          .because(fmt::format("file {} is of another type", fd.id()));
    slots.push_back({static_cast<int>(fd.fd()), (fd.flags() & FD_CLOEXEC) != 0, get(fd.id())});
  }
  return slots;
}

const std::vector<Restorer::Watch>& Restorer::watches(const image::TaskImage& task) {
  if (!watches_) watches_ = epoll_watches(*this);
  return (*watches_)[&task];
}

const std::vector<SocketPacket>& Restorer::socket_packets() {
  if (!packets_) packets_ = read_socket_queues(image_.dir);
  return *packets_;
}

UnixFamily& Restorer::unix_family() {
  if (!unix_family_) {
    unix_family_ = std::make_unique<UnixFamily>(*this);
    unix_family_->make();
  }
  return *unix_family_;
}

void Restorer::unite_sockets(UnixDoer& doer) {
  for (const auto& [id, file] : entries())
    if (file.type() == image::UNIXSK) return unix_family().unite(doer);
}

void Restorer::finish_sockets(const std::map<pid_t, pid_t>& tasks) {
  if (!unix_family_) return;
  unix_family_->finish(tasks);
  std::set<uint32_t> held;
  for (const image::TaskImage& task : image_.tasks)
    for (const image::FdinfoEntry& fd : task.fds) held.insert(fd.id());
  for (const auto& [id, file] : entries())
    if (file.type() == image::EVENTPOLL && !held.contains(id) && made_.contains(id))
      watch_in_flight(*this, id);
}

void Restorer::in_network(const std::function<void()>& action) const {
  if (network_ < 0) return action();
  namespaces::in_namespaces(network_, CLONE_NEWNET, action);
}

void Restorer::restore_owner(int fd, const image::FownEntry& owner) {
  if (owner.signum() != 0)
    kernel::must(kernel::call(SYS_fcntl, fd, F_SETSIG, owner.signum()), "set the signal of",
                 "a file");
  if (owner.pid() != 0) owners_.emplace_back(fd, owner);
}

void Restorer::set_owners(const std::map<pid_t, pid_t>& tasks) {
  for (const auto& action : when_made_) action();
  when_made_.clear();
  for (const auto& [fd, owner] : owners_) set_owner(fd, owner, tasks, ids_);
  owners_.clear();
}

void Restorer::close_all() {
  open_watch_targets(*this);
  for (const auto& [directory, name] : temporary_names_)
    kernel::must(kernel::call(SYS_unlinkat, directory.get(), name.c_str(), 0),
                 "unlink the temporary name", name);
  temporary_names_.clear();
  owners_.clear();
  when_made_.clear();
  made_.clear();
  revenants_.clear();
  pipes_.clear();
  fifos_.clear();
  unix_family_.reset();
  nameless_.clear();
  terminals_.close_all();
  memory_files_.clear();
  // Last of all: closing files is something to be told of, too.
  set_watches(pending_watches_);
}

}  // namespace stasis::engine::files
