// Terminals: pseudoterminals of the container, its console, /dev/tty.
#include "engine/files/terminal.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include <algorithm>

#include "base/scope_exit.h"
#include "engine/files/dumper.h"
#include "engine/files/owner.h"
#include "engine/files/regular.h"
#include "engine/files/reopen.h"
#include "engine/files/restorer.h"
#include "engine/files/terminal_data.h"
#include "engine/files/terminal_settings.h"
#include "engine/image/image.h"
#include "engine/mounts/spaces.h"
#include "kernel/fs.h"
#include "kernel/tty.h"

namespace stasis::engine::files {

namespace {

constexpr uint32_t first_current = 2012;  // as CRIU numbers it
constexpr std::string_view deleted = " (deleted)";

bool claims(const Probe& probe) {
  return is_pty_master(probe) || is_pty_slave(probe) || is_current_tty(probe);
}

Objection about(const Probe& probe, const std::string& what, const std::string& remedy) {
  return {fmt::format("holds the terminal {} open as descriptor {}, {}", probe.link, probe.number,
                      what),
          remedy};
}

std::optional<Objection> about_slave(const Probe& probe, const Surroundings& around) {
  const DumpPlan& plan = around.plan();
  PtyId id{probe.device(), probe.stat.stx_rdev_minor};
  if (was_deleted(probe) || around.ptys().masters.contains(id) || plan.shell_job)
    return std::nullopt;
  if (!is_own_instance(id.first, plan))
    return about(probe, "which isn't the container's own",
                 "allow it with --shell-job, and restore from a terminal that takes its place");
  if (!plan.orphan_pts_master)
    return about(probe, "whose other end is outside of the container",
                 "allow it with --orphan-pts-master, or with --shell-job and restore from a "
                 "terminal that takes its place");
  const std::vector<PtyId> orphans = around.ptys().orphans(plan);
  if (!orphans.empty() && id != orphans.front())
    return about(probe, "the second one whose other end is outside of the container",
                 "end what was started beside the container's first process (as by exec -t)");
  return std::nullopt;
}

std::optional<Objection> objection(const Probe& probe, const Surroundings& around) {
  if (is_pty_slave(probe)) return about_slave(probe, around);
  if (is_pty_master(probe) && !pty_of(probe, around.plan()))
    return about(probe, "whose file system nothing in the container shows",
                 "mount its devpts beside it, at pts");
  return std::nullopt;
}

// The path, as a file of its own that no process holds.
uint32_t dump_path(Dumper& dumper, const OpenFile& file) {
  const Probe& probe = file.probe;
  uint32_t id = dumper.next_id();
  image::FileEntry entry;
  entry.set_type(image::REG);
  entry.set_id(id);
  image::RegFileEntry& reg = *entry.mutable_reg();
  bool own = is_pty_slave(probe) || probe.link.ends_with("/pts/ptmx");
  if (!own) {
    describe_path(dumper, file, reg, id);
  } else {
    // The kernel makes and removes these: never a matter of a file's content.
    std::string name = probe.link;
    if (name.ends_with(deleted)) name.resize(name.size() - deleted.size());
    bool inside = is_own_instance(probe.device(), dumper.plan());
    reg.set_id(id);
    reg.set_flags(probe.flags());
    reg.set_pos(0);
    reg.set_name(name);
    reg.set_mnt_id(inside ? probe.info.mnt_id : -1);
    reg.set_mode(probe.stat.stx_mode);
    *reg.mutable_fown() = dump_owner(file.fd.get(), O_PATH, dumper.plan().root);
  }
  dumper.add_entry(std::move(entry));
  return id;
}

void dump(Dumper& dumper, const OpenFile& file, image::FileEntry& entry) {
  if (auto trouble = objection(file.probe, dumper.around()))
    throw Error("dump", process_name(file.probe.pid))
        .because("it " + trouble->what)
        .hint(trouble->remedy);
  image::TtyFileEntry& tty = *entry.mutable_tty();
  tty.set_id(file.id);
  tty.set_tty_info_id(dumper.terminals().number_of(dumper, file));
  tty.set_flags(file.probe.flags());
  *tty.mutable_fown() = dump_owner(file.fd.get(), file.probe.flags(), dumper.plan().root);
  tty.set_regf_id(dump_path(dumper, file));
}

UniqueFd make(Restorer& restorer, const image::FileEntry& entry) {
  UniqueFd fd = restorer.terminals().make(entry);
  restorer.restore_owner(fd.get(), entry.tty().fown());
  return fd;
}

}  // namespace

TerminalDump::Key TerminalDump::key_of(Dumper& dumper, const OpenFile& file) {
  const Probe& probe = file.probe;
  bool hung = kernel::is_hung_up(file.fd.get());
  if (is_current_tty(probe))
    return {hung ? Side::hung : Side::current, 0, hung ? 0 : kernel::tty_device(file.fd.get())};
  auto [instance, index] = pty_of(probe, dumper.plan()).value_or(PtyId{});
  Side side = is_pty_master(probe) ? Side::master : Side::slave;
  return {hung ? Side::hung : side, instance, index};
}

uint32_t TerminalDump::number_of(Dumper& dumper, const OpenFile& file) {
  Key key = key_of(dumper, file);
  if (auto known = terminals_.find(key); known != terminals_.end()) return known->second.number;
  bool current = is_current_tty(file.probe);
  uint32_t number = current ? first_current : std::get<2>(key) << 1;
  if (std::get<0>(key) == Side::master) number |= 1;
  // Several devpts instances, say: two more than any that is in use.
  while (numbers_.contains(number)) number += 2;
  numbers_.insert(number);
  terminals_[key] = {number, &file};
  return number;
}

// A master can be asked. Without one the session is told by the number of its
// terminal, that of another instance being the same: those that masters tell of
// are left out.
const Session* TerminalDump::session_of(const Key& key, const OpenFile& file) const {
  auto [side, instance, index] = key;
  auto with = [&](auto holds) {
    auto found = std::find_if(sessions_.begin(), sessions_.end(), holds);
    return found == sessions_.end() ? nullptr : &*found;
  };
  auto told_by_master = [&](const Key& master) -> const Session* {
    pid_t leader = kernel::session_of_pty(terminals_.at(master).file->fd.get());
    return leader ? with([&](const Session& s) { return s.leader == leader; }) : nullptr;
  };
  if (side == Side::hung) return nullptr;
  if (side == Side::current)
    return with(
        [&](const Session& s) { return s.terminal == index && s.has_member(file.probe.pid); });
  Key master{Side::master, instance, index};
  if (terminals_.contains(master)) return told_by_master(master);
  std::set<const Session*> others;
  for (const auto& [other, terminal] : terminals_)
    if (std::get<0>(other) == Side::master) others.insert(told_by_master(other));
  return with([&, number = index](const Session& s) {
    return !others.contains(&s) && kernel::decoded_major(s.terminal) == kernel::pty_slave_major &&
           kernel::decoded_minor(s.terminal) == number;
  });
}

image::TtyInfoEntry TerminalDump::describe(Dumper& dumper, const Key& key,
                                           const Terminal& terminal) const {
  const auto& [side, instance, index] = key;
  const Probe& probe = terminal.file->probe;
  const Session* session = session_of(key, *terminal.file);
  const bool current = is_current_tty(probe);
  if (side == Side::current && !session)
    throw Error("dump", process_name(probe.pid))
        .because(fmt::format("it holds /dev/tty open as descriptor {}, which was the terminal of a "
                             "session whose first process has ended",
                             probe.number))
        .hint("end it, or what started it, before the checkpoint");
  image::TtyInfoEntry info;
  info.set_id(terminal.number);
  info.set_type(current ? image::CTTY : image::PTY);
  if (!current) info.mutable_pty()->set_index(index);
  info.set_locked(false);
  info.set_exclusive(false);
  info.set_packet_mode(false);
  info.set_sid(session ? session->id : 0);
  info.set_pgrp(session ? session->foreground_group : 0);
  info.set_rdev(
      static_cast<uint32_t>(makedev(probe.stat.stx_rdev_major, probe.stat.stx_rdev_minor)));
  info.set_dev(static_cast<uint32_t>(current ? probe.device() : instance));
  // A device node that the container was given may have an owner outside of it.
  auto uid = dumper.ids().find_uid_inside(probe.stat.stx_uid);
  auto gid = dumper.ids().find_gid_inside(probe.stat.stx_gid);
  if (uid && gid) {
    info.set_uid(*uid);
    info.set_gid(*gid);
  }
  if (side != Side::hung) dump_settings(terminal.file->fd.get(), side == Side::master, probe, info);
  return info;
}

// A slave that nobody holds, but somebody did: the master knows it.
void TerminalDump::add_closed_slave(Dumper& dumper, const image::TtyInfoEntry& master) {
  uint32_t number = master.pty().index() << 1;
  while (numbers_.contains(number)) number += 2;
  numbers_.insert(number);
  image::TtyInfoEntry slave = master;
  slave.set_id(number);
  slave.set_rdev(static_cast<uint32_t>(makedev(kernel::pty_slave_major, master.pty().index())));
  slave.set_locked(false);
  slave.set_packet_mode(false);
  slave.clear_uid();
  slave.clear_gid();
  dumper.writer().append("tty-info", slave);
}

void TerminalDump::store_data(Dumper& dumper, const Key& key, const Terminal& slave) const {
  auto master = terminals_.find({Side::master, std::get<1>(key), std::get<2>(key)});
  const bool own = master != terminals_.end();
  // Whoever types on goes first if it is put back: not as long as the tasks go on.
  if (!own && (dumper.plan().leave_running || dumper.plan().shell_job)) return;
  const bool locked = own && kernel::is_pty_locked(master->second.file->fd.get());
  if (locked) kernel::set_pty_locked(master->second.file->fd.get(), false);
  ScopeExit lock([&] {
    int on = 1;
    if (locked) kernel::call(SYS_ioctl, master->second.file->fd.get(), TIOCSPTLCK, &on);
  });
  UniqueFd fd = reopen(slave.file->fd.get(), O_RDWR | O_NONBLOCK, slave.file->probe.link);
  TerminalData data =
      copy_data(own ? master->second.file->fd.get() : -1, fd.get(), !dumper.plan().leave_running);
  auto append = [&](uint32_t number, const std::string& bytes) {
    image::TtyDataEntry entry;
    entry.set_tty_id(number);
    entry.set_data(bytes);
    if (!bytes.empty()) dumper.writer().append("tty-data", entry);
  };
  append(slave.number, data.typed);
  if (own) append(master->second.number, data.printed);
}

// The console of a container whose processes have closed it, say: it is still
// mounted, and the terminal of its session.
bool TerminalDump::add_unheld(Dumper& dumper, const Session& session) {
  const unsigned index = kernel::decoded_minor(session.terminal);
  std::string name = fmt::format("/dev/pts/{}", index);
  long opened = kernel::try_open_in(dumper.around().root(mounts::spaces_of(dumper.plan()).front()),
                                    name.substr(1), O_RDWR | O_NOCTTY | O_NONBLOCK,
                                    RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
  if (opened < 0) return false;
  UniqueFd fd(static_cast<int>(opened));
  Probe probe;
  probe.pid = session.leader;
  probe.link = name;
  probe.stat = kernel::stat_fd(fd.get());
  if (!is_pty_slave(probe) || probe.stat.stx_rdev_minor != index ||
      !is_own_instance(probe.device(), dumper.plan()))
    return false;
  OpenFile file;
  file.fd = std::move(fd);
  file.probe = std::move(probe);
  Key key{Side::slave, file.probe.device(), index};
  image::TtyInfoEntry info = describe(dumper, key, {index << 1, &file});
  if (!numbers_.insert(info.id()).second || info.sid() != session.id) return false;
  dumper.writer().append("tty-info", info);
  return true;
}

void TerminalDump::finish(Dumper& dumper) {
  std::set<uint32_t> served;
  for (const auto& [key, terminal] : terminals_) {
    image::TtyInfoEntry info = describe(dumper, key, terminal);
    served.insert(info.sid());
    dumper.writer().append("tty-info", info);
    auto [side, instance, index] = key;
    if (side == Side::slave) store_data(dumper, key, terminal);
    if (side == Side::master && !terminals_.contains({Side::slave, instance, index}) &&
        kernel::had_pty_slave(terminal.file->fd.get()))
      add_closed_slave(dumper, info);
  }
  for (const Session& session : sessions_)
    if (session.terminal != 0 && session.id != 0 && !served.contains(session.id) &&
        !add_unheld(dumper, session))
      dumper.log().warn("Session {} has a terminal that no process holds open: it loses it",
                        session.id);
  terminals_.clear();
}

const FileKind terminal_kind = {"a terminal", image::TTY, claims, objection, dump, make};

}  // namespace stasis::engine::files
