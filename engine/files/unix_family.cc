#include "engine/files/unix_family.h"

#include <fmt/core.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <algorithm>

#include "engine/files/reopen.h"
#include "engine/files/restorer.h"
#include "engine/files/socket_options.h"
#include "engine/files/unix_queue.h"
#include "engine/files/unix_socket.h"
#include "engine/image/check.h"
#include "engine/image/checkpoint.h"
#include "kernel/fs.h"
#include "kernel/socket.h"

namespace stasis::engine::files {

namespace {

Error trouble(const image::UnixSkEntry& entry, const std::string& cause) {
  std::string name = fmt::format("unix socket {}", entry.ino());
  if (!entry.name().empty()) name += " (" + shown_name(entry.name()) + ")";
  return Error("restore", name).because(cause);
}

void set_option(int fd, int option, int value) {
  kernel::set_socket_option(fd, SOL_SOCKET, option, value, "set an option of", "a unix socket");
}

}  // namespace

bool UnixFamily::Member::packets() const { return entry->type() == SOCK_DGRAM; }
bool UnixFamily::Member::listens() const { return entry->state() == TCP_LISTEN && !packets(); }

bool UnixFamily::Member::half() const {
  if (packets() && more->has_lost_peer()) return more->lost_peer();
  // The kernel calls one that others are connected to established as well; such
  // a one has a name.
  return entry->peer() == 0 && entry->state() == TCP_ESTABLISHED && (!packets() || !named());
}

// Packets can be sent to and fro between names; all else needs one call for both ends.
bool UnixFamily::Member::pair() const {
  if (!mutual()) return false;
  return !packets() || !named() || !peer->named();
}

UnixFamily::UnixFamily(Restorer& restorer) : restorer_(restorer), names_(restorer) {}

void UnixFamily::find_peers() {
  for (auto& entry : restorer_.image().dir.all<image::UnixMoreEntry>("stasis-unix"))
    more_[entry.ino()] = std::move(entry);
  for (const auto& [id, file] : restorer_.entries()) {
    if (file.type() != image::UNIXSK) continue;
    const image::UnixSkEntry& entry = file.usk();
    if (entry.uflags() & unix_outside)
      outside_[entry.ino()] = &entry;
    else
      members_[entry.ino()].entry = &entry;
  }
  for (auto& [inode, member] : members_) {
    member.more = &more_[inode];
    uint32_t peer = member.entry->peer();
    auto found = members_.find(peer);
    if (found != members_.end())
      member.peer = &found->second;
    else if (peer != 0 && !outside_.contains(peer))
      throw trouble(*member.entry, "its peer is not in the image");
  }
}

UniqueFd UnixFamily::socket(const Member& member) const {
  UniqueFd fd;
  restorer_.in_network([&] {
    long made = kernel::call(SYS_socket, AF_UNIX, member.entry->type() | SOCK_CLOEXEC, 0);
    fd.reset(static_cast<int>(kernel::must(made, "make", "a unix socket")));
  });
  return fd;
}

std::string UnixFamily::path_of(const Member& member) const {
  const std::string& path = member.more->path();
  if (!path.empty() && !image::is_clean_path(path))
    throw trouble(*member.entry, "its file is at no clean path");
  return path;
}

void UnixFamily::make() {
  find_peers();
  for (auto& [inode, member] : members_) {
    int inherited = restorer_.inherited(fmt::format("socket:[{}]", inode));
    member.given = inherited >= 0;
    member.own = member.given ? duplicate(inherited) : socket(member);
    member.fd = member.own.get();
    // Those of a pair, and those that accept() made, are replaced later.
    if (outside_.contains(member.entry->peer()) && !member.given) check_outside(member);
    if (member.given || member.pair() || member.half()) continue;
    names_.bind(member.fd, *member.entry, path_of(member));
  }
}

UniqueFd UnixFamily::take(uint32_t inode) { return std::move(members_.at(inode).own); }

void UnixFamily::replace(Member& member, UniqueFd made) const {
  kernel::must(kernel::call(SYS_dup3, made.get(), member.fd, O_CLOEXEC), "place", "a unix socket");
}

// Images of CRIU don't say: then whoever has it.
image::UnixDoerEntry UnixFamily::doer_of(const Member& member) const {
  return member.more->has_peer() ? member.more->peer() : holder_of(member);
}

image::UnixDoerEntry UnixFamily::holder_of(const Member& member) const {
  image::UnixDoerEntry holder;
  holder.set_pid(0), holder.set_uid(0), holder.set_gid(0);
  for (const image::TaskImage& task : restorer_.image().tasks) {
    bool holds = std::any_of(task.fds.begin(), task.fds.end(),
                             [&](const auto& fd) { return fd.id() == member.entry->id(); });
    if (!holds || task.threads.empty()) continue;
    const image::CredsEntry& creds = task.threads.front().thread_core().creds();
    holder.set_pid(task.tree.pid());
    holder.set_uid(creds.euid());
    holder.set_gid(creds.egid());
    break;
  }
  return holder;
}

void UnixFamily::pair_up(Member& one, Member& other) {
  std::array<UniqueFd, 2> ends;
  restorer_.in_network([&] { ends = doer_->pair(one.entry->type(), doer_of(one)); });
  replace(one, std::move(ends[0]));
  if (&one == &other)
    one.lost = std::move(ends[1]);
  else
    replace(other, std::move(ends[1]));
  one.connected = other.connected = true;
}

UnixFamily::Member* UnixFamily::listener_of(const Member& accepted) {
  for (auto& [inode, member] : members_) {
    const image::UnixSkEntry &a = *member.entry, &b = *accepted.entry;
    if (member.listens() && !member.given && a.type() == b.type() && a.name() == b.name() &&
        a.name_dir() == b.name_dir() && a.mnt_id() == b.mnt_id() && a.deleted() == b.deleted())
      return &member;
  }
  return nullptr;
}

// Whoever accepted has the name of the one that listened.
bool UnixFamily::is_client(const Member& one, const Member& other) {
  if (!one.named() || !other.named()) return !one.named();
  if (listener_of(one)) return false;
  return listener_of(other) || one.entry->ino() < other.entry->ino();
}

// `client` is connected to `accepted`, which has its name from who listened.
void UnixFamily::accept_as(Member& accepted, Member& client, int client_fd) {
  Member* listener = listener_of(accepted);
  UniqueFd stand_in;
  int fd = listener ? listener->fd : -1;
  if (!listener) {
    stand_in = socket(accepted);
    fd = stand_in.get();
    if (is_abstract(accepted.entry->name()))
      names_.bind(fd, *accepted.entry);
    else
      names_.bind_aside(fd, *accepted.entry);
    doer_->listen(fd, 1, doer_of(client));
  }
  doer_->connect(client_fd, fd, accepted.entry->name(), doer_of(accepted));
  long made = kernel::call(SYS_accept4, fd, nullptr, nullptr, SOCK_CLOEXEC);
  replace(
      accepted,
      UniqueFd(static_cast<int>(kernel::must(made, "accept", shown_name(accepted.entry->name())))));
}

void UnixFamily::unite_streams(Member& member) {
  Member& other = *member.peer;
  if (!member.named() && !other.named()) return pair_up(member, other);
  bool first = is_client(member, other);
  Member &client = first ? member : other, &accepted = first ? other : member;
  names_.bind(client.fd, *client.entry);
  accept_as(accepted, client, client.fd);
  client.connected = accepted.connected = true;
}

void UnixFamily::lose_other_end(Member& member) {
  if (!member.named()) return pair_up(member, member);
  member.lost = socket(member);
  accept_as(member, member, member.lost.get());
}

// What needs several sockets at once, but for those waiting to be accepted.
void UnixFamily::unite(Member& member) {
  if (member.given || member.connected) return;
  if (member.half()) return lose_other_end(member);
  if (!member.pair() || member.peer->given) return;
  if (!member.packets()) return unite_streams(member);
  Member& other = *member.peer;
  pair_up(member, other);
  names_.bind(member.fd, *member.entry);
  names_.bind(other.fd, *other.entry);
}

// Before anything is made of it.
void UnixFamily::check_outside(const Member& member) const {
  const image::UnixSkEntry& outside = *outside_.at(member.entry->peer());
  if (!outside.name().empty() && restorer_.plan().ext_unix_sk) return;
  throw trouble(*member.entry, fmt::format("it was connected to {}, outside of the container",
                                           outside.name().empty() ? "a socket without a name"
                                                                  : shown_name(outside.name())))
      .hint(fmt::format("hand over a socket (--inherit-fd 'fd[N]:socket:[{}]'), or have it "
                        "connected again (--ext-unix-sk)",
                        member.entry->ino()));
}

void UnixFamily::connect_outside(Member& member) {
  const image::UnixSkEntry& outside = *outside_.at(member.entry->peer());
  long result = connect_from_root(member.fd, restorer_.root_of(-1), outside.name());
  if (result < 0)
    throw trouble(*member.entry, "it can't be connected again to " + shown_name(outside.name()))
        .with_errno(static_cast<int>(-result));
}

// Others first: who is connected itself takes packets from its peer alone.
void UnixFamily::connect(Member& member) {
  if (member.connected || member.given || member.entry->peer() == 0) return;
  member.connected = true;
  if (!member.peer) return connect_outside(member);
  if (member.packets())
    for (auto& [inode, other] : members_)
      if (other.peer == &member && &other != member.peer) connect(other);
  Member& peer = *member.peer;
  if (member.packets() && !peer.named() && &peer != &member) {
    // Only somebody who made both can have connected it.
    pair_up(member, peer);
    names_.bind(member.fd, *member.entry);
    sockaddr nobody{AF_UNSPEC, {}};
    kernel::must(kernel::call(SYS_connect, peer.fd, &nobody, sizeof nobody), "disconnect",
                 "a unix socket");
    int error = 0;
    socklen_t size = sizeof error;
    kernel::call(SYS_getsockopt, member.fd, SOL_SOCKET, SO_ERROR, &error, &size);
    peer.connected = false;
    return;
  }
  kernel::must(connect_to(member.fd, peer.fd, peer.entry->name()), "connect to",
               shown_name(peer.entry->name()));
}

UnixFamily::Member* UnixFamily::sender_named(const std::string& name) {
  for (auto& [inode, member] : members_)
    if (member.packets() && !member.given && member.entry->name() == name) return &member;
  return nullptr;
}

// Who can send to `receiver` by its name, and has the name `name`.
UnixFamily::Sender UnixFamily::sender_of(Member& receiver, const std::string& name) {
  if (Member* member = name.empty() ? nullptr : sender_named(name)) return {member->fd, {}};
  if (name.empty())
    for (auto& [inode, other] : members_)
      if (other.peer == &receiver && !other.named() && !other.given) return {other.fd, {}};
  // It has been closed since, or is outside of the container.
  Sender sender;
  sender.own = socket(receiver);
  sender.fd = sender.own.get();
  if (!name.empty()) names_.bind_like(sender.fd, name);
  return sender;
}

void UnixFamily::fill(Member& member, const std::map<pid_t, pid_t>& tasks) {
  auto queue = queues_.find(member.entry->id());
  if (queue == queues_.end() || member.given) return;
  bool by_name = member.packets() && member.named() && !member.pair() && !member.half();
  if (!by_name && !member.half() && !member.mutual())
    throw trouble(*member.entry, "nobody can have sent what waits in it");
  UniqueFd file = by_name ? socket_file(member.fd) : UniqueFd();
  std::string address = file ? fmt::format("/proc/self/fd/{}", file.get()) : member.entry->name();
  set_option(member.fd, SO_PASSCRED, member.entry->opts().so_passcred());
  int number = 0;
  for (const SocketPacket* packet : queue->second) {
    image::UnixPacketEntry more;
    if (number < member.more->packets_size()) more = member.more->packets(number++);
    Sender sender;
    if (by_name)
      sender = sender_of(member, more.sender());
    else
      sender.fd = member.half() ? member.lost.get() : member.peer->fd;
    make_room(sender.fd), make_room(member.fd);
    send_packet(restorer_, *packet, {sender.fd, by_name ? address : "", more, tasks});
  }
  set_option(member.fd, SO_PASSCRED, 0);
}

void UnixFamily::settle(Member& member) {
  member.lost.reset();
  if (member.given) return;
  const image::UnixSkEntry& entry = *member.entry;
  if (entry.shutdown() != image::NONE && !member.listens())
    kernel::must(kernel::call(SYS_shutdown, member.fd, static_cast<int>(entry.shutdown()) - 1),
                 "shut down", "a unix socket");
  restore_socket_options(member.fd, entry.opts());
  set_status_flags(member.fd, entry.flags());
  if (member.more->has_peek_offset())
    set_option(member.fd, SO_PEEK_OFF, static_cast<int>(member.more->peek_offset()));
  restorer_.restore_owner(member.fd, entry.fown());
}

// As far as the image tells it.
std::vector<UnixFamily::Member*> UnixFamily::in_order_of_waiting() {
  std::vector<Member*> order;
  for (auto& [inode, listener] : members_)
    for (uint32_t client : listener.more->clients())
      if (auto found = members_.find(client); found != members_.end())
        order.push_back(&found->second);
  for (auto& [inode, member] : members_) order.push_back(&member);
  return order;
}

void UnixFamily::unite(UnixDoer& doer) {
  doer_ = &doer;
  for (auto& [inode, member] : members_)
    if (member.listens() && !member.given)
      doer.listen(member.fd, member.entry->backlog(), doer_of(member));
  for (auto& [inode, member] : members_) unite(member);
  for (Member* member : in_order_of_waiting()) {
    if (!member->waits_to_be_accepted() || member->given || member->connected) continue;
    doer.connect(member->fd, member->peer->fd, member->peer->entry->name(), holder_of(*member));
    member->connected = true;
  }
}

void UnixFamily::finish(const std::map<pid_t, pid_t>& tasks) {
  for (const SocketPacket& packet : restorer_.socket_packets())
    queues_[packet.entry.id_for()].push_back(&packet);
  for (auto& [inode, member] : members_) fill(member, tasks);
  for (auto& [inode, member] : members_) connect(member);
  for (auto& [inode, member] : members_) settle(member);
}

}  // namespace stasis::engine::files
