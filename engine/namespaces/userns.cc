#include "engine/namespaces/userns.h"

#include <fmt/core.h>
#include <grp.h>
#include <linux/nsfs.h>
#include <linux/securebits.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/report.h"
#include "base/scope_exit.h"
#include "base/text.h"
#include "kernel/fs.h"

namespace stasis::engine::userns {
namespace {

using Extents = google::protobuf::RepeatedPtrField<image::UidGidExtent>;

constexpr uint32_t none = ~0U;

std::optional<uint32_t> translate(const Extents& map, uint32_t id, bool inwards) {
  if (id == none) return id;
  for (const image::UidGidExtent& extent : map) {
    uint32_t from = inwards ? extent.lower_first() : extent.first();
    uint32_t to = inwards ? extent.first() : extent.lower_first();
    if (id >= from && id - from < extent.count()) return to + (id - from);
  }
  return std::nullopt;
}

uint32_t expect(std::optional<uint32_t> found, const char* kind, uint32_t id, const char* side,
                const std::string& subject) {
  if (found) return *found;
  throw Error("carry over the owner of", subject)
      .because(
          fmt::format("{} {} {}, which the container's user namespace doesn't map", kind, id, side))
      .hint("Give it to an owner that the container has, or map the id.");
}

// The report is far smaller than a pipe.
[[noreturn]] void act_in(int users, const std::function<std::string()>& action, int out) {
  std::string report;
  int status = 1;
  try {
    kernel::must(kernel::call(SYS_setns, users, CLONE_NEWUSER), "enter",
                 "the container's user namespace");
    report = action();
    status = 0;
  } catch (const Error& error) {
    report = to_report(error);
  } catch (const std::exception& error) {
    report = to_report(Error("look into", "the container's user namespace").because(error.what()));
  }
  kernel::call(SYS_write, out, report.data(), report.size());
  _exit(status);
}

}  // namespace

Extents parse_map(std::string_view text) {
  Extents map;
  while (!text.empty()) {
    std::string_view line = text::next(text, '\n');
    auto words = text::words(line);
    std::vector<uint32_t> numbers;
    numbers.reserve(words.size());
    for (std::string_view word : words)
      if (auto number = text::to_int<uint32_t>(word)) numbers.push_back(*number);
    if (words.size() != 3 || numbers.size() != 3)
      throw Error("read", "/proc/PID/uid_map")
          .because("unexpected line \"" + std::string(line) + '"');
    image::UidGidExtent& extent = *map.Add();
    extent.set_first(numbers[0]);
    extent.set_lower_first(numbers[1]);
    extent.set_count(numbers[2]);
  }
  return map;
}

std::string to_text(const Extents& map) {
  std::string text;
  for (const image::UidGidExtent& extent : map)
    text += fmt::format("{} {} {}\n", extent.first(), extent.lower_first(), extent.count());
  return text;
}

IdMap IdMap::of(pid_t pid) {
  const std::string proc = fmt::format("/proc/{}/", pid);
  if (pid == 0 || kernel::read_link(proc + "ns/user") == kernel::read_link("/proc/self/ns/user"))
    return IdMap();
  image::UsernsEntry maps;
  *maps.mutable_uid_map() = parse_map(kernel::read_file(proc + "uid_map"));
  *maps.mutable_gid_map() = parse_map(kernel::read_file(proc + "gid_map"));
  return IdMap(maps);
}

std::optional<uint32_t> IdMap::find_uid_inside(uint32_t uid) const {
  return maps_ ? translate(maps_->uid_map(), uid, true) : uid;
}

std::optional<uint32_t> IdMap::find_gid_inside(uint32_t gid) const {
  return maps_ ? translate(maps_->gid_map(), gid, true) : gid;
}

uint32_t IdMap::uid_inside(uint32_t uid, const std::string& subject) const {
  return expect(find_uid_inside(uid), "uid", uid, "of the host", subject);
}

uint32_t IdMap::gid_inside(uint32_t gid, const std::string& subject) const {
  return expect(find_gid_inside(gid), "gid", gid, "of the host", subject);
}

uint32_t IdMap::uid_outside(uint32_t uid, const std::string& subject) const {
  return maps_
             ? expect(translate(maps_->uid_map(), uid, false), "uid", uid, "of the image", subject)
             : uid;
}

uint32_t IdMap::gid_outside(uint32_t gid, const std::string& subject) const {
  return maps_
             ? expect(translate(maps_->gid_map(), gid, false), "gid", gid, "of the image", subject)
             : gid;
}

std::string trouble_with(const image::UsernsEntry& maps) {
  if (!translate(maps.uid_map(), 0, false)) return "maps no uid 0";
  if (!translate(maps.gid_map(), 0, false)) return "maps no gid 0";
  return {};
}

void write_maps(const image::UsernsEntry& maps, pid_t pid) {
  if (std::string trouble = trouble_with(maps); !trouble.empty())
    throw Error("restore", "the user namespace").because("it " + trouble);
  kernel::write_file(fmt::format("/proc/{}/uid_map", pid), to_text(maps.uid_map()));
  kernel::write_file(fmt::format("/proc/{}/gid_map", pid), to_text(maps.gid_map()));
}

UniqueFd make(const image::UsernsEntry& maps) {
  int ends[2];
  kernel::must(kernel::call(SYS_pipe2, ends, O_CLOEXEC), "make", "a pipe");
  UniqueFd theirs(ends[0]), ours(ends[1]);
  long child = kernel::call(SYS_clone, CLONE_NEWUSER | SIGCHLD, nullptr, nullptr, nullptr, nullptr);
  if (child == 0) {
    ours.reset();
    char end;
    kernel::call(SYS_read, theirs.get(), &end, 1);  // until its parent is done with it, or gone
    _exit(0);
  }
  kernel::must(child, "make", "a user namespace");
  auto pid = static_cast<pid_t>(child);
  ScopeExit reap([&] {
    ours.reset();
    while (kernel::call(SYS_wait4, pid, nullptr, 0, nullptr) == -EINTR) continue;
  });
  kernel::write_file(fmt::format("/proc/{}/uid_map", pid), to_text(maps.uid_map()));
  kernel::write_file(fmt::format("/proc/{}/gid_map", pid), to_text(maps.gid_map()));
  return kernel::open(fmt::format("/proc/{}/ns/user", pid), O_RDONLY);
}

void become_root() {
  kernel::must(kernel::call(SYS_setresgid, 0, 0, 0), "become", "gid 0 of the user namespace");
  kernel::must(kernel::call(SYS_setgroups, 0, nullptr), "leave", "the groups of the host");
  kernel::must(kernel::call(SYS_setresuid, 0, 0, 0), "become", "uid 0 of the user namespace");
  // Its own files in /proc would be the host's root's otherwise.
  kernel::must(kernel::call(SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0), "set the dumpable flag of",
               "the container's first process");
}

std::string in_user_namespace(pid_t pid, const std::function<std::string()>& action) {
  UniqueFd users = kernel::open(fmt::format("/proc/{}/ns/user", pid), O_RDONLY);
  int ends[2];
  kernel::must(kernel::call(SYS_pipe2, ends, O_CLOEXEC), "make", "a pipe");
  UniqueFd ours(ends[0]), theirs(ends[1]);
  long child = kernel::call(SYS_clone, CLONE_FILES | SIGCHLD, nullptr, nullptr, nullptr, nullptr);
  if (child == 0) act_in(users.get(), action, theirs.get());
  kernel::must(child, "make", "a process in the container's user namespace");
  int status = 0;
  while (kernel::call(SYS_wait4, child, &status, 0, nullptr) == -EINTR) continue;
  theirs.reset();
  std::string report = kernel::read_all(ours.get(), "a pipe");
  if (status == 0) return report;
  if (!report.empty()) throw from_report(report);
  throw Error("look into", "the container's user namespace")
      .because("the process that did was killed");
}

uint64_t owner_of(const std::string& link) {
  UniqueFd ns = kernel::open(link, O_RDONLY);
  UniqueFd owner(static_cast<int>(
      kernel::must(kernel::call(SYS_ioctl, ns.get(), NS_GET_USERNS), "find the owner of", link)));
  return kernel::stat_fd(owner.get(), STATX_INO).stx_ino;
}

CreateAsRoot::CreateAsRoot(const IdMap& map) {
  if (!map.maps()) return;
  // Without this, another fsuid than 0 takes capabilities over files away.
  securebits_ = kernel::must(kernel::call(SYS_prctl, PR_GET_SECUREBITS, 0, 0, 0, 0), "read",
                             "our securebits");
  kernel::must(
      kernel::call(SYS_prctl, PR_SET_SECUREBITS, securebits_ | SECBIT_NO_SETUID_FIXUP, 0, 0, 0),
      "set", "our securebits");
  changed_ = true;
  kernel::call(SYS_setfsgid, map.gid_outside(0, "what is restored"));
  kernel::call(SYS_setfsuid, map.uid_outside(0, "what is restored"));
}

CreateAsRoot::~CreateAsRoot() {
  if (!changed_) return;
  kernel::call(SYS_setfsuid, geteuid());
  kernel::call(SYS_setfsgid, getegid());
  kernel::call(SYS_prctl, PR_SET_SECUREBITS, securebits_, 0, 0, 0);
}

}  // namespace stasis::engine::userns
