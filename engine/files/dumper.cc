#include "engine/files/dumper.h"

#include <fmt/core.h>
#include <linux/kcmp.h>
#include <sched.h>
#include <sys/syscall.h>

#include <algorithm>

#include "engine/files/inet_diag.h"
#include "engine/files/pipe_data.h"
#include "engine/files/reopen.h"
#include "engine/files/standing.h"
#include "engine/files/unix_peers.h"
#include "engine/files/unix_queue.h"
#include "engine/files/unix_socket.h"
#include "engine/image/image.h"
#include "engine/namespaces/ns_ids.h"
#include "kernel/fs.h"
#include "kernel/proc_misc.h"

namespace stasis::engine::files {

namespace {

enum class Order { same, before, after };

// The kernel keeps some order of its own between open files.
Order compare(int a, int b) {
  long self = kernel::call(SYS_getpid);
  long result = kernel::must(kernel::call(SYS_kcmp, self, self, KCMP_FILE, a, b), "compare",
                             "two open files (kcmp)");
  return result == 0 ? Order::same : result == 1 ? Order::before : Order::after;
}

Error refusal(pid_t pid, const Objection& objection) {
  return Error("dump", process_name(pid)).because("it " + objection.what).hint(objection.remedy);
}

}  // namespace

Dumper::Dumper(const DumpPlan& plan, image::ImageWriter& writer, Log& log)
    : plan_(plan), writer_(writer), log_(log), around_(plan), ids_(userns::IdMap::of(plan.root)) {
  raise_descriptor_limit();
}

Dumper::~Dumper() = default;

OpenFile& Dumper::identify(UniqueFd duplicate, Probe probe) {
  auto& candidates =
      by_identity_[{probe.device(), probe.stat.stx_ino, probe.info.flags | O_CLOEXEC}];
  auto place = std::lower_bound(
      candidates.begin(), candidates.end(), duplicate.get(),
      [](const OpenFile* file, int fd) { return compare(file->fd.get(), fd) == Order::before; });
  if (place != candidates.end() && compare((*place)->fd.get(), duplicate.get()) == Order::same)
    return **place;

  if (auto objection = objection_to(probe)) throw refusal(probe.pid, *objection);
  auto file = std::make_unique<OpenFile>();
  file->id = next_id();
  file->fd = std::move(duplicate);
  file->kind = kind_of(probe);
  file->probe = std::move(probe);
  file->entry.set_type(file->kind->type);
  file->entry.set_id(file->id);
  file->kind->dump(*this, *file, file->entry);
  log_.debug("file {}: {}, first seen as {}", file->id, file->kind->name, file->probe.described());
  candidates.insert(place, file.get());
  open_files_.push_back(std::move(file));
  return *open_files_.back();
}

void Dumper::note_locks(const Probe& probe, uint32_t table, const OpenFile& file, bool is_new) {
  if (auto objection = lock_objection(probe, plan_)) throw refusal(probe.pid, *objection);
  locks_.add(probe, plan_.root, table, file.id, is_new, file.fd.get());
}

void Dumper::descriptors(pid_t pid, int pidfd, uint32_t files_id) {
  if (!tables_done_.insert(files_id).second) return;
  holders_.push_back(pid);
  std::string stem = fmt::format("fdinfo-{}", files_id);
  writer_.create_empty(stem);
  std::string path = fmt::format("/proc/{}", pid);
  UniqueFd proc = kernel::open(path, O_PATH | O_DIRECTORY);
  UniqueFd list = kernel::open_at(proc.get(), "fd", O_RDONLY | O_DIRECTORY);
  for (int number : kernel::numeric_entries(list.get(), path + "/fd")) {
    UniqueFd duplicate = kernel::pidfd_getfd(pidfd, number);
    Probe probe = probe_descriptor(proc.get(), pid, number);
    image::FdinfoEntry entry;
    entry.set_fd(static_cast<uint32_t>(number));
    entry.set_flags(probe.cloexec() ? FD_CLOEXEC : 0);
    size_t known = open_files_.size();
    const OpenFile& file = identify(std::move(duplicate), probe);
    note_locks(probe, files_id, file, open_files_.size() > known);
    entry.set_id(file.id);
    entry.set_type(file.kind->type);
    writer_.append(stem, entry);
  }
}

Dumper::PathFile Dumper::path_file(pid_t pid, const std::string& proc_link, uint32_t flags) {
  OpenFile file;
  file.fd = kernel::open(proc_link, O_PATH);
  file.probe = probe_link(proc_link, file.fd.get());
  file.probe.pid = pid;
  tell_inside(file.probe, around_);
  file.probe.info.flags = static_cast<int>(flags);
  const Probe& probe = file.probe;
  auto [id, is_new] = path_files_.try_emplace(
      {probe.link, probe.device(), probe.stat.stx_ino, probe.info.mnt_id, flags}, PathFile{});
  if (!is_new) return id->second;
  file.kind = memfd_kind.claims(probe) ? &memfd_kind : &regular_kind;
  if (!file.kind->claims(probe))
    throw Error("dump", proc_link).because(probe.link + " is no file that can be opened again");
  file.id = next_id();
  id->second = {file.id, file.kind->type};
  file.entry.set_type(file.kind->type);
  file.entry.set_id(file.id);
  file.kind->dump(*this, file, file.entry);
  add_entry(std::move(file.entry));
  return id->second;
}

void Dumper::add_entry(image::FileEntry entry) { more_entries_.push_back(std::move(entry)); }

uint32_t Dumper::network_id() {
  if (!network_id_) network_id_ = namespaces::NsIds(plan_.root).id(CLONE_NEWNET);
  return *network_id_;
}

const std::map<uint32_t, int>& Dumper::udp_shutdowns() {
  if (!udp_shutdowns_) udp_shutdowns_ = files::udp_shutdowns(plan_.root);
  return *udp_shutdowns_;
}

uint32_t Dumper::in_flight(UniqueFd fd, const Probe& holder) try {
  pid_t self = static_cast<pid_t>(kernel::call(SYS_getpid));
  UniqueFd proc = kernel::open("/proc/self", O_PATH | O_DIRECTORY);
  Probe probe = probe_descriptor(proc.get(), self, fd.get());
  return identify(std::move(fd), std::move(probe)).id;
} catch (const Error& error) {
  throw Error("dump", process_name(holder.pid))
      .because(fmt::format("a file waits in its {} to be received, which can't be written down: {}",
                           holder.described(), error.cause()))
      .hint(error.remedy());
}

// Who is connected to a socket that no process of the container has.
void Dumper::find_peers() {
  std::map<uint32_t, uint32_t> outside;  // inode -> id of its entry
  std::set<uint32_t> ours;
  for (const auto& file : open_files_)
    if (file->kind == &unix_kind) ours.insert(file->entry.usk().ino());
  for (const auto& file : open_files_) {
    if (file->kind != &unix_kind) continue;
    uint32_t peer = file->entry.usk().peer();
    if (peer == 0 || ours.contains(peer) || outside.contains(peer)) continue;
    if (auto objection = unix_peer_objection(file->probe, around_))
      throw refusal(file->probe.pid, *objection);
    outside[peer] = next_id();
    add_entry(unix_peer_outside(outside[peer], peer, around_));
  }
}

void Dumper::check_ghosts() const {
  for (const auto& [file, holder] : expected_ghosts_)
    if (!ghosts_.contains(file))
      throw refusal(holder.pid,
                    {fmt::format("watches a deleted file by inotify (descriptor {}) that nobody "
                                 "has open",
                                 holder.number),
                     "let it watch files that have a name"});
}

void Dumper::check_processes(const std::set<pid_t>& dumped) const {
  for (const auto& [pid, holder] : expected_processes_)
    if (!dumped.contains(pid))
      throw refusal(holder.pid, {fmt::format("holds a pidfd of process {} open as descriptor {}, "
                                             "which is no part of the checkpoint",
                                             pid, holder.number),
                                 "end that process before the checkpoint"});
}

void Dumper::queues() {
  // What travels in a queue may be a socket with a queue of its own.
  for (size_t i = 0; i < open_files_.size(); ++i)
    if (open_files_[i]->kind == &unix_kind) dump_unix_queue(*this, *open_files_[i]);
}

void Dumper::finish() {
  find_peers();
  check_ghosts();
  describe_peers(*this, open_files_);
  for (auto& [inode, more] : unix_more_) {
    more.set_ino(inode);
    writer_.append("stasis-unix", more);
  }
  dump_contents(writer_, open_files_);
  terminals_.finish(*this);
  connections_.store(plan_, open_files_, writer_);
  for (const auto& lock : locks_.entries()) writer_.append("filelocks", lock);
  for (const auto& entry : more_entries_) writer_.append("files", entry);
  for (const auto& file : open_files_) writer_.append("files", file->entry);
  by_identity_.clear();
  open_files_.clear();
}

}  // namespace stasis::engine::files
