// POSIX message queues.
#include <fmt/format.h>
#include <linux/mount.h>
#include <mqueue.h>
#include <sys/syscall.h>

#include "base/text.h"
#include "engine/namespaces/posix_messages.h"
#include "engine/namespaces/sysv_kinds.h"
#include "kernel/directories.h"
#include "kernel/fs.h"

namespace stasis::engine::sysv {
namespace {

constexpr uint32_t mode_bits = 07777;
constexpr uint64_t most_bytes = 16 << 20;  // of messages in a queue
constexpr char all_queues[] = "POSIX message queues";

std::string name_of(std::string_view name) { return fmt::format("POSIX message queue /{}", name); }

// A mount of the namespace's queues that nobody else sees; none on a kernel that
// knows no queues.
UniqueFd mount_queues() {
  long context = kernel::call(SYS_fsopen, "mqueue", FSOPEN_CLOEXEC);
  if (context == -ENODEV) return UniqueFd();
  UniqueFd config(static_cast<int>(kernel::must(context, "look at", all_queues)));
  kernel::must(kernel::call(SYS_fsconfig, config.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0),
               "look at", all_queues);
  return UniqueFd(static_cast<int>(kernel::must(
      kernel::call(SYS_fsmount, config.get(), FSMOUNT_CLOEXEC, 0), "look at", all_queues)));
}

std::vector<std::string> names_in(const UniqueFd& mount) {
  if (!mount.valid()) return {};
  UniqueFd listing = kernel::open_at(mount.get(), ".", O_RDONLY | O_DIRECTORY);
  return kernel::entries(listing.get(), all_queues);
}

mq_attr attributes_of(int queue, const std::string& name) {
  mq_attr attributes{};
  kernel::must(kernel::call(SYS_mq_getsetattr, queue, nullptr, &attributes), "look at", name);
  return attributes;
}

// What the queue's text tells in the field.
uint64_t told(std::string_view text, std::string_view field) {
  size_t at = text.find(field);
  if (at == std::string_view::npos) return 0;
  std::string_view rest = text.substr(at + field.size());
  return text::to_int<uint64_t>(text::words(rest).front()).value_or(0);
}

// Why the queue can't be carried; empty: it can.
std::string trouble_with(int queue, const std::string& name) {
  const std::string text = kernel::read_all(queue, name);
  if (uint64_t bytes = told(text, "QSIZE:"); bytes > most_bytes)
    return fmt::format("{} with {} bytes in it, more than {}", name, bytes, most_bytes);
  if (told(text, "NOTIFY_PID:") == 0) return {};
  return name + " of whose next message a process is to be told (mq_notify)";
}

}  // namespace

std::vector<std::string> queue_obstacles() {
  std::vector<std::string> found;
  UniqueFd mount = mount_queues();
  for (const std::string& file : names_in(mount)) {
    long fd = kernel::call(SYS_openat, mount.get(), file.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd == -ENOENT) continue;  // gone meanwhile
    UniqueFd queue(static_cast<int>(kernel::must(fd, "open", name_of(file))));
    if (auto trouble = trouble_with(queue.get(), name_of(file)); !trouble.empty())
      found.push_back(std::move(trouble));
  }
  return found;
}

void dump_posix_queues(const Dumping& dumping) {
  // Its end would make the tasks wait for as long as everything else.
  dumping.queues.mount = mount_queues();
  for (const std::string& file : names_in(dumping.queues.mount)) {
    const std::string name = name_of(file);
    UniqueFd queue = kernel::open_at(dumping.queues.mount.get(), file, O_RDWR | O_NONBLOCK);
    if (auto trouble = trouble_with(queue.get(), name); !trouble.empty())
      throw Error("dump", "the ipc namespace").because("it holds " + trouble);
    const mq_attr attributes = attributes_of(queue.get(), name);
    const struct statx stat = kernel::stat_fd(queue.get());
    image::PosixQueueEntry& entry = dumping.queues.entries.emplace_back();
    entry.set_name(file);
    entry.set_mode(stat.stx_mode & mode_bits);
    entry.set_uid(dumping.ids.uid_inside(stat.stx_uid, name));
    entry.set_gid(dumping.ids.gid_inside(stat.stx_gid, name));
    entry.set_most_messages(static_cast<uint32_t>(attributes.mq_maxmsg));
    entry.set_message_size(static_cast<uint32_t>(attributes.mq_msgsize));
    *entry.mutable_messages() = copy_messages(queue.get(), attributes, name);
  }
}

void make_posix_queue(const image::PosixQueueEntry& entry, const userns::IdMap& ids) {
  const std::string name = name_of(entry.name());
  mq_attr attributes{};
  attributes.mq_maxmsg = entry.most_messages();
  attributes.mq_msgsize = entry.message_size();
  UniqueFd queue(static_cast<int>(kernel::must(
      kernel::call(SYS_mq_open, entry.name().c_str(),
                   O_CREAT | O_EXCL | O_RDWR | O_NONBLOCK | O_CLOEXEC, 0600, &attributes),
      "make", name)));
  send_messages(queue.get(), entry.messages(), name);
  kernel::must(kernel::call(SYS_fchown, queue.get(), ids.uid_outside(entry.uid(), name),
                            ids.gid_outside(entry.gid(), name)),
               "set the owner of", name);
  kernel::must(kernel::call(SYS_fchmod, queue.get(), entry.mode() & mode_bits), "set the mode of",
               name);
}

}  // namespace stasis::engine::sysv
