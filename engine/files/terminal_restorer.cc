// Terminals made again: each pty with the first open file of it.
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include <algorithm>

#include "engine/files/reopen.h"
#include "engine/files/restorer.h"
#include "engine/files/terminal.h"
#include "engine/files/terminal_data.h"
#include "engine/files/terminal_settings.h"
#include "engine/image/checkpoint.h"
#include "kernel/fs.h"
#include "kernel/tty.h"

namespace stasis::engine::files {

namespace {

constexpr const char* usual_ptmx = "/dev/pts/ptmx";

const image::TtyInfoEntry& info_of(const image::Checkpoint& image, const image::FileEntry& file) {
  for (const image::TtyInfoEntry& info : image.terminals)
    if (info.id() == file.tty().tty_info_id()) return info;
  throw Error("restore", fmt::format("terminal {}", file.id())).because("it isn't in tty-info.img");
}

bool is_hung(const image::TtyInfoEntry& info) { return !info.has_termios(); }
// Of both ends the kernel's number of the device tells which it is.
bool is_master(const image::TtyInfoEntry& info) {
  return info.type() == image::PTY && kernel::decoded_major(info.rdev()) == kernel::tty_major;
}
PtyId id_of(const image::TtyInfoEntry& info) { return {info.dev(), info.pty().index()}; }

std::string name_of(const image::TtyInfoEntry& info) {
  return info.type() == image::CTTY ? "/dev/tty" : fmt::format("/dev/pts/{}", info.pty().index());
}

// Numbers of ptys whose masters are open files of the image.
std::set<PtyId> masters_of(const image::Checkpoint& image) {
  std::set<PtyId> masters;
  for (const auto& [id, file] : image.files) {
    if (file.type() != image::TTY) continue;
    const image::TtyInfoEntry& info = info_of(image, file);
    if (is_master(info) && !is_hung(info)) masters.insert(id_of(info));
  }
  return masters;
}

// Of a devpts of the container.
bool is_inside(const image::Checkpoint& image, PtyId id) {
  if (image.mounts.empty()) return true;
  for (const auto& [ns, mounts] : image.mounts)
    for (const image::MntEntry& mount : mounts)
      if (mount.fstype() == image::DEVPTS &&
          makedev(mount.root_dev() >> 20, mount.root_dev() & 0xfffff) == id.first)
        return true;
  return false;
}

TerminalData data_of(const image::Checkpoint& image, PtyId id) {
  TerminalData data;
  for (const image::TtyInfoEntry& info : image.terminals) {
    if (info.type() != image::PTY || id_of(info) != id || is_hung(info)) continue;
    for (const image::TtyDataEntry& entry : image.terminal_data)
      if (entry.tty_id() == info.id()) (is_master(info) ? data.printed : data.typed) = entry.data();
  }
  return data;
}

// What a file of the image was opened by; made up for images that don't tell.
image::RegFileEntry path_of(const Restorer& restorer, const image::FileEntry& file) {
  if (file.tty().has_regf_id()) return restorer.entry(file.tty().regf_id()).reg();
  image::RegFileEntry reg;
  const image::TtyInfoEntry& info = info_of(restorer.image(), file);
  reg.set_name(is_master(info) ? usual_ptmx : name_of(info));
  reg.set_mnt_id(-1);
  return reg;
}

bool is_device(int node, unsigned major, unsigned minor) {
  struct statx stat = kernel::stat_fd(node);
  return S_ISCHR(stat.stx_mode) && stat.stx_rdev_major == major && stat.stx_rdev_minor == minor;
}

// The node, looked at before it is opened.
UniqueFd find_device(int root, const std::string& name, unsigned major, unsigned minor) {
  UniqueFd node =
      kernel::open_in(root, name.substr(1), O_PATH, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
  if (!is_device(node.get(), major, minor))
    throw Error("restore the terminal", name)
        .because(fmt::format("it isn't the device {}:{} that it was", major, minor));
  return node;
}

}  // namespace

std::set<PtyId> check_terminals(const image::Checkpoint& checkpoint, const RestorePlan& plan,
                                const std::set<PtyId>& there) {
  std::set<PtyId> masters = masters_of(checkpoint);
  std::set<PtyId> outside, found;
  for (const image::TtyInfoEntry& info : checkpoint.terminals) {
    if (info.type() != image::PTY || is_hung(info) || masters.contains(id_of(info))) continue;
    (there.contains(id_of(info)) ? found : outside).insert(id_of(info));
  }
  if (outside.empty()) return found;
  PtyId last = *outside.rbegin();
  Error error("restore the terminal", fmt::format("/dev/pts/{}", last.second));
  if (outside.size() > 1)
    throw error.because("the other end of more than one terminal was outside of the container")
        .hint("end what was started beside the container's first process (as by exec -t)");
  const bool inside = is_inside(checkpoint, last);
  if (plan.terminal >= 0 || (plan.orphan_pts_master && inside)) return found;
  if (plan.shell_job)
    throw error.because("standard input is no terminal that could take its place")
        .hint("restore it from a terminal");
  if (!inside)
    throw error.because("it isn't the container's own")
        .hint("use --shell-job in a terminal that is to take its place");
  throw error.because("its other end was outside of the container, and nobody is there to take it")
      .hint("give the container a terminal (\"terminal\": true), or use --shell-job in one");
}

bool is_current_terminal(const image::Checkpoint& checkpoint, const image::FileEntry& file) {
  if (file.type() != image::TTY) return false;
  const image::TtyInfoEntry& info = info_of(checkpoint, file);
  return info.type() == image::CTTY && !is_hung(info);
}

UniqueFd Terminals::open_master(const image::TtyInfoEntry& info) {
  std::string name = usual_ptmx;
  image::RegFileEntry path;
  path.set_mnt_id(-1);
  for (const auto& [id, file] : restorer_.entries()) {
    if (file.type() != image::TTY) continue;
    const image::TtyInfoEntry& other = info_of(restorer_.image(), file);
    if (other.type() != image::PTY || id_of(other).first != info.dev()) continue;
    path = path_of(restorer_, file);
    if (is_master(other)) {
      name = path.name();
    } else if (path.name().ends_with(fmt::format("/{}", other.pty().index()))) {
      name = path.name().substr(0, path.name().rfind('/')) + "/ptmx";
    }
    if (other.id() == info.id()) break;
  }
  UniqueFd node = find_device(restorer_.root_of(path), name, kernel::tty_major, kernel::ptmx_minor);
  return open_ptmx(node.get(), info.pty().index());
}

// All that is to be hung up is so before anything else is open.
void Terminals::hang_up(PtyId id, Pty& pty) {
  for (const auto& [file_id, file] : restorer_.entries()) {
    if (file.type() != image::TTY) continue;
    const image::TtyInfoEntry& info = info_of(restorer_.image(), file);
    if (!is_hung(info) || info.type() != image::PTY || id_of(info) != id) continue;
    uint32_t flags = lasting_flags(file.tty().flags());
    pty.hung[file_id] = kernel::open_pty_peer(pty.master.get(), static_cast<int>(flags));
  }
  if (pty.hung.empty()) return;
  kernel::must(kernel::call(SYS_ioctl, pty.hung.begin()->second.get(), TIOCVHANGUP), "hang up",
               "a terminal");
}

Terminals::Pty& Terminals::pty_of(const image::TtyInfoEntry& info) {
  PtyId id = id_of(info);
  Pty& pty = ptys_[id];
  if (pty.ready) return pty;
  pty.ready = true;
  if (there_.contains(id)) return pty;
  const image::TtyInfoEntry* lives = living(id);
  bool own = masters_of(restorer_.image()).contains(id);
  pty.orphan = lives && !own;
  const RestorePlan& plan = restorer_.plan();
  if (pty.orphan && !(plan.orphan_pts_master && is_inside(restorer_.image(), id)))
    return pty;  // the caller's takes its place
  if (!pty.master.valid()) pty.master = open_master(info);
  kernel::set_pty_locked(pty.master.get(), false);
  hang_up(id, pty);
  pty.set_up = true;
  if (!lives) {
    pty.master.reset();
    return pty;
  }
  restore_settings(pty.master.get(), *lives);
  bool had_slaves = false;
  for (const image::TtyInfoEntry& end : restorer_.image().terminals)
    had_slaves |= end.type() == image::PTY && id_of(end) == id && !is_master(end);
  if (!had_slaves) return pty;
  // A master knows whether it ever had a slave.
  UniqueFd slave = kernel::open_pty_peer(pty.master.get(), O_RDWR);
  put_data(slave.get(), data_of(restorer_.image(), id));
  return pty;
}

void Terminals::restore_modes(int slave, const image::TtyInfoEntry& info,
                              const image::RegFileEntry& path) {
  const userns::IdMap& ids = restorer_.ids();
  if (info.has_uid() && info.has_gid())
    kernel::must(kernel::call(SYS_fchown, slave, ids.uid_outside(info.uid(), path.name()),
                              ids.gid_outside(info.gid(), path.name())),
                 "set the owner of", path.name());
  if (path.has_mode())
    kernel::must(kernel::call(SYS_fchmod, slave, path.mode() & 07777), "set the mode of",
                 path.name());
}

UniqueFd Terminals::open_slave(const image::FileEntry& entry, const image::TtyInfoEntry& info) {
  Pty& pty = pty_of(info);
  uint32_t flags = entry.tty().flags();
  bool there = there_.contains(id_of(info));
  UniqueFd fd;
  if (!there && !pty.master.valid()) {
    fd = reopen(restorer_.plan().terminal, flags, "the terminal given");
  } else {
    image::RegFileEntry path = path_of(restorer_, entry);
    UniqueFd node = find_device(restorer_.root_of(path), path.name(), kernel::pty_slave_major,
                                info.pty().index());
    fd = reopen(node.get(), flags, path.name());
    restore_modes(fd.get(), info, path);
  }
  set_status_flags(fd.get(), flags);
  if (pty.set_up) return fd;
  pty.set_up = true;
  image::TtyInfoEntry settings = info;
  // The size of a terminal that somebody sits at is theirs.
  if (!there) settings.clear_winsize();
  restore_settings(fd.get(), settings);
  if (there)
    put_data(reopen(fd.get(), O_RDWR, name_of(info)).get(),
             data_of(restorer_.image(), id_of(info)));
  return fd;
}

UniqueFd Terminals::make_hung(const image::FileEntry& entry, const image::TtyInfoEntry& info) {
  if (info.type() == image::PTY) {
    auto& hung = pty_of(info).hung;
    if (auto found = hung.find(entry.id()); found != hung.end())
      return duplicate(found->second.get());
  }
  // All others first: this one may have any number.
  for (const image::TtyInfoEntry& other : restorer_.image().terminals)
    if (other.type() == image::PTY) pty_of(other);
  image::RegFileEntry path;
  path.set_mnt_id(-1);
  UniqueFd node =
      find_device(restorer_.root_of(path), usual_ptmx, kernel::tty_major, kernel::ptmx_minor);
  UniqueFd master = reopen(node.get(), O_RDWR, usual_ptmx);
  kernel::set_pty_locked(master.get(), false);
  return kernel::open_pty_peer(master.get(), static_cast<int>(lasting_flags(entry.tty().flags())));
}

UniqueFd Terminals::make(const image::FileEntry& entry) {
  const image::TtyInfoEntry& info = info_of(restorer_.image(), entry);
  std::string name = name_of(info);
  if (is_hung(info)) return make_hung(entry, info);
  if (info.type() == image::CTTY && info.sid() == 0 && restorer_.plan().terminal >= 0) {
    image::RegFileEntry path = path_of(restorer_, entry);  // our own session's
    UniqueFd node = find_device(restorer_.root_of(path), path.name(), kernel::tty_major,
                                kernel::current_tty_minor);
    return reopen(node.get(), entry.tty().flags(), path.name());
  }
  if (info.type() == image::CTTY)
    throw Error("restore the terminal", name)
        .because("no process of the image leads the session that it belongs to");
  if (!is_master(info)) return open_slave(entry, info);
  Pty& pty = pty_of(info);
  if (pty.taken)
    throw Error("restore the terminal", name).because("its master is in the image twice");
  pty.taken = true;
  set_status_flags(pty.master.get(), entry.tty().flags());
  return duplicate(pty.master.get());
}

const image::TtyInfoEntry* Terminals::living(PtyId id) const {
  for (const image::TtyInfoEntry& info : restorer_.image().terminals)
    if (info.type() == image::PTY && !is_hung(info) && id_of(info) == id) return &info;
  return nullptr;
}

std::vector<Terminals::Control> Terminals::controls() {
  std::map<uint32_t, Control> by_session;
  for (const image::TtyInfoEntry& info : restorer_.image().terminals) {
    if (info.sid() == 0 || is_hung(info)) continue;
    Control& control = by_session[info.sid()];
    control.session = static_cast<pid_t>(info.sid());
    control.foreground_group = static_cast<pid_t>(info.pgrp());
    if (info.type() == image::CTTY) {
      for (const auto& [id, file] : restorer_.entries())
        if (file.type() == image::TTY && file.tty().tty_info_id() == info.id())
          control.current.push_back(id);
    } else if (!control.slave.valid()) {
      control.slave = open_control(info);
    }
  }
  std::vector<Control> controls;
  for (auto& [session, control] : by_session)
    if (control.slave.valid()) controls.push_back(std::move(control));
  return controls;
}

// Invalid where the terminal is the caller's: of another session.
UniqueFd Terminals::open_control(const image::TtyInfoEntry& info) {
  Pty& pty = pty_of(info);
  if (pty.master.valid()) return kernel::open_pty_peer(pty.master.get(), O_RDWR);
  if (!there_.contains(id_of(info))) return {};
  image::RegFileEntry path;
  path.set_mnt_id(-1);
  UniqueFd node = find_device(restorer_.root_of(path), name_of(info), kernel::pty_slave_major,
                              info.pty().index());
  return reopen(node.get(), O_RDWR, name_of(info));
}

uint32_t Terminals::flags(uint32_t file_id) const { return restorer_.entry(file_id).tty().flags(); }

std::string Terminals::path(uint32_t file_id) const {
  image::RegFileEntry path = path_of(restorer_, restorer_.entry(file_id));
  // A task is about to open what an image names.
  find_device(restorer_.root_of(path), path.name(), kernel::tty_major, kernel::current_tty_minor);
  return path.name();
}

void Terminals::take_current(uint32_t file_id, UniqueFd fd) {
  std::string name = path(file_id);
  if (!is_device(fd.get(), kernel::tty_major, kernel::current_tty_minor))
    throw Error("restore the terminal", name).because("it isn't /dev/tty");
  const image::TtyFileEntry& tty = restorer_.entry(file_id).tty();
  set_status_flags(fd.get(), tty.flags());
  restorer_.restore_owner(fd.get(), tty.fown());
  restorer_.give(file_id, std::move(fd));
}

void Terminals::settle() {
  for (auto& [id, pty] : ptys_) {
    if (!pty.master.valid()) continue;
    bool packets = false, locked = false;
    for (const image::TtyInfoEntry& info : restorer_.image().terminals) {
      if (info.type() != image::PTY || id_of(info) != id || is_hung(info)) continue;
      packets |= info.packet_mode();
      locked |= info.locked();
      if (!info.exclusive() || is_master(info)) continue;
      UniqueFd slave = kernel::open_pty_peer(pty.master.get(), O_RDWR);
      kernel::must(kernel::call(SYS_ioctl, slave.get(), TIOCEXCL), "make exclusive", name_of(info));
    }
    if (const image::TtyInfoEntry* info = living(id)) lock_settings(pty.master.get(), *info);
    if (packets) kernel::set_packet_mode(pty.master.get(), true);
    if (locked) kernel::set_pty_locked(pty.master.get(), true);
  }
}

void Terminals::close_all() {
  for (auto& [id, pty] : ptys_)
    if (pty.orphan && pty.master.valid()) orphans_.push_back(std::move(pty.master));
  ptys_.clear();
}

}  // namespace stasis::engine::files
