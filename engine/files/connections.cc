#include "engine/files/connections.h"

#include <fmt/core.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>

#include <optional>

#include "engine/files/connection_hold.h"
#include "engine/files/dumper.h"
#include "engine/files/reopen.h"
#include "engine/files/repair_guard.h"
#include "engine/files/restorer.h"
#include "engine/files/tcp_connection.h"
#include "engine/image/checkpoint.h"
#include "engine/namespaces/namespaces.h"
#include "kernel/fs.h"

namespace stasis::engine::files {

bool is_connection(const image::InetSkEntry& entry) {
  return entry.proto() == IPPROTO_TCP && entry.type() == SOCK_STREAM && entry.dst_port() != 0;
}

struct DumpedConnections::One {
  UniqueFd fd;
  std::optional<Repair> repair;
};

DumpedConnections::DumpedConnections() = default;
DumpedConnections::~DumpedConnections() = default;

void DumpedConnections::store(const DumpPlan& plan,
                              const std::vector<std::unique_ptr<OpenFile>>& files,
                              image::ImageWriter& writer) {
  std::vector<OpenFile*> found;
  std::vector<InetEnds> ends;
  for (const auto& file : files) {
    if (file->entry.type() != image::INETSK || !is_connection(file->entry.isk())) continue;
    found.push_back(file.get());
    ends.push_back(ends_of(file->entry.isk()));
  }
  if (found.empty() || plan.tcp_close) return;
  if (!plan.leave_running && !plan.skip_network_lock)
    namespaces::in_namespaces(kernel::pidfd_open(plan.root).get(), CLONE_NEWNET,
                              [&] { hold_ = std::make_unique<ConnectionHold>(ends); });
  std::vector<int> sockets;
  sockets.reserve(found.size());
  for (const OpenFile* file : found) sockets.push_back(file->fd.get());
  guard_ = std::make_unique<RepairGuard>(sockets);
  for (size_t i = 0; i < found.size(); ++i) {
    image::InetSkEntry& entry = *found[i]->entry.mutable_isk();
    int fd = found[i]->fd.get();
    TcpStream stream;
    {
      Repair repair(fd);
      stream = read_connection(fd, "the connection " + ends[i].text());
    }
    entry.set_state(static_cast<uint32_t>(stream.state));
    writer.append(fmt::format("tcp-stream-{:x}", entry.ino()), stream.entry,
                  stream.received + stream.sent);
    if (!plan.leave_running) all_.push_back({duplicate(fd), std::nullopt});
  }
  if (plan.leave_running) guard_.reset();
}

std::string DumpedConnections::held_as() const { return hold_ ? hold_->id() : ""; }

void DumpedConnections::silence() {
  for (One& one : all_) one.repair.emplace(one.fd.get());
}

void DumpedConnections::stay_held() {
  // The programs are gone and their connections with them: out of repair mode
  // they would tell the other end.
  if (hold_) hold_->stay();
  for (One& one : all_)
    if (one.repair) one.repair->abandon();
  guard_.reset();  // which has them open, too
}

struct RestoredConnections::One {
  UniqueFd fd;
  Repair repair;
};

RestoredConnections::RestoredConnections() = default;
RestoredConnections::~RestoredConnections() = default;

void RestoredConnections::hold(const Restorer& restorer) {
  if (closes_connections(restorer.image(), restorer.plan()) || restorer.plan().skip_network_lock)
    return;
  std::vector<InetEnds> ends;
  for (const auto& [id, file] : restorer.entries())
    if (file.type() == image::INETSK && is_connection(file.isk()))
      ends.push_back(ends_of(file.isk()));
  if (ends.empty()) return;
  restorer.in_network([&] { hold_ = std::make_unique<ConnectionHold>(std::move(ends)); });
}

void RestoredConnections::make_others_first(Restorer& restorer) {
  if (others_made_) return;
  others_made_ = true;
  for (const auto& [id, file] : restorer.entries())
    if (file.type() == image::INETSK && file.isk().proto() == IPPROTO_TCP &&
        !is_connection(file.isk()))
      restorer.get(id);
}

void RestoredConnections::add(UniqueFd fd, Repair repair) {
  all_.push_back({std::move(fd), std::move(repair)});
}

void RestoredConnections::release(const std::string& held_as) {
  if (hold_) hold_->lift(held_as);
  hold_.reset();
  for (One& one : all_) one.repair.end();
  all_.clear();
}

bool closes_connections(const image::Checkpoint& checkpoint, const RestorePlan& plan) {
  return plan.tcp_close || checkpoint.inventory.tcp_close();
}

void check_connections(const image::Checkpoint& checkpoint, const RestorePlan& plan) {
  if (plan.tcp_established || closes_connections(checkpoint, plan)) return;
  for (const auto& [id, file] : checkpoint.files)
    if (file.type() == image::INETSK && is_connection(file.isk()) &&
        file.isk().state() != TCP_CLOSE)
      throw Error("restore", "the TCP connection " + ends_of(file.isk()).text())
          .because("nobody asked for established connections to be restored")
          .hint("restore with --tcp-established, or with --tcp-close to have them closed");
}

}  // namespace stasis::engine::files
