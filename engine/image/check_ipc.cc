// System V objects.
#include <climits>
#include <string>
#include <unordered_set>

#include "engine/image/check.h"

namespace stasis::image {
namespace {

constexpr uint32_t mode_bits = 07777;
constexpr uint32_t most_semaphores = 65535;
constexpr size_t longest_name = 255;
constexpr uint64_t largest_page = uint64_t{1} << 34;
constexpr int highest_semaphore = 32767;

// Objects of one kind have ids and keys of their own; key 0 is everybody's.
class Objects {
 public:
  explicit Objects(std::string stem) : stem_(std::move(stem)) {}
  void check(const IpcDescEntry& desc) {
    expect(desc.id() <= INT_MAX && ids_.insert(desc.id()).second, stem_, at_, "id {}", desc.id());
    expect(desc.key() == 0 || keys_.insert(desc.key()).second, stem_, at_, "key {:#x} again",
           desc.key());
    expect((desc.mode() & ~mode_bits) == 0, stem_, at_, "mode {:o}", desc.mode());
    ++at_;
  }

 private:
  std::string stem_;
  int64_t at_ = 0;
  std::unordered_set<uint32_t> ids_, keys_;
};

void check_undo(const Checkpoint& image, const StasisEntry& more) {
  for (const SemaphoreUndoEntry& entry : more.semaphore_undo()) {
    bool known = false;
    for (const SemaphoreSet& set : image.semaphores)
      known |= set.entry.desc().id() == entry.id() && entry.number() < set.values.size();
    expect(known && entry.value() >= -highest_semaphore - 1 && entry.value() <= highest_semaphore,
           "stasis", -1, "undo of semaphore {} of set {} by {}", entry.number(), entry.id(),
           entry.value());
  }
}

void check_posix_queues(const Checkpoint& image, const StasisEntry& more) {
  std::unordered_set<std::string> names;
  for (const PosixQueueEntry& queue : more.posix_queues()) {
    const std::string& name = queue.name();
    expect(!name.empty() && name.size() <= longest_name && name != "." && name != ".." &&
               name.find('/') == std::string::npos && name.find('\0') == std::string::npos &&
               names.insert(name).second,
           "stasis", -1, "POSIX message queue \"{}\"", name);
    expect((queue.mode() & ~mode_bits) == 0 && queue.most_messages() > 0 &&
               queue.most_messages() <= INT_MAX && queue.message_size() > 0 &&
               queue.message_size() <= INT_MAX,
           "stasis", -1, "POSIX message queue {}: {} messages of {} bytes, mode {:o}", name,
           queue.most_messages(), queue.message_size(), queue.mode());
    expect(queue.messages_size() <= static_cast<int>(queue.most_messages()), "stasis", -1,
           "POSIX message queue {}: {} messages, {} at most", name, queue.messages_size(),
           queue.most_messages());
    for (const PosixMessageEntry& message : queue.messages())
      expect(message.data().size() <= queue.message_size() && message.priority() < MQ_PRIO_MAX,
             "stasis", -1, "POSIX message queue {}: a message of {} bytes, priority {}", name,
             message.data().size(), message.priority());
    expect(image.ipc.has_value(), "stasis", -1,
           "POSIX message queue {}, but no ipc namespace of its own", name);
  }
}

}  // namespace

void check_ipc(const Checkpoint& image) {
  const uint32_t ns = image.root().ids.ipc_ns_id();
  std::string stem = stem_of("ipcns-shm", ns);
  Objects segments(stem);
  for (const SharedSegment& segment : image.segments) {
    segments.check(segment.entry.desc());
    expect(segment.entry.size() > 0 && segment.entry.size() < user_end, stem, -1,
           "a segment of {} bytes", segment.entry.size());
    const uint64_t page = segment_page_size(segment.entry);
    expect(page >= page_size && page <= largest_page, stem, -1, "pages of {} bytes", page);
  }
  stem = stem_of("ipcns-msg", ns);
  Objects queues(stem);
  for (const MessageQueue& queue : image.queues) {
    queues.check(queue.entry.desc());
    expect(queue.entry.qbytes() <= INT_MAX, stem, -1, "room for {} bytes", queue.entry.qbytes());
    for (const IpcMessage& message : queue.messages)
      expect(message.type > 0 && message.type <= INT64_MAX, stem, -1, "a message of type {}",
             message.type);
  }
  stem = stem_of("ipcns-sem", ns);
  Objects sets(stem);
  for (const SemaphoreSet& set : image.semaphores) {
    sets.check(set.entry.desc());
    expect(!set.values.empty() && set.values.size() <= most_semaphores, stem, -1, "{} semaphores",
           set.values.size());
    for (uint16_t value : set.values)
      expect(value <= highest_semaphore, stem, -1, "a semaphore at {}", value);
  }
  if (image.more) {
    check_undo(image, *image.more);
    check_posix_queues(image, *image.more);
  }
  expect(image.ipc || (image.segments.empty() && image.queues.empty() && image.semaphores.empty()),
         stem_of("ipcns-var", ns), -1, "missing, though there are System V objects");
}

}  // namespace stasis::image
