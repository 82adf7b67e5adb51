// System V message queues.
#include <fmt/format.h>
#include <sys/msg.h>
#include <sys/syscall.h>

#include <cstring>

#include "engine/namespaces/sysv_kinds.h"

namespace stasis::engine::sysv {
namespace {

std::string name_of(uint32_t id) { return fmt::format("message queue {}", id); }

// As msgsnd and msgrcv want it.
struct Message {
  explicit Message(size_t size) : words(1 + (size + 7) / 8) {}
  uint64_t& type() { return words.front(); }
  char* text() { return reinterpret_cast<char*>(words.data() + 1); }
  std::vector<uint64_t> words;
};

void dump_messages(uint32_t id, const msqid_ds& queue, const std::string& stem,
                   image::ImageWriter& writer) {
  // None is longer than all together.
  const size_t most = queue.__msg_cbytes;
  Message message(most);
  for (uint64_t n = 0; n < queue.msg_qnum; ++n) {
    long size = kernel::call(SYS_msgrcv, id, message.words.data(), most, n, MSG_COPY | IPC_NOWAIT);
    if (size == -EINVAL)
      throw Error("dump", name_of(id))
          .because("it holds a message that is longer than kernel.msgmax allows by now")
          .hint("raise kernel.msgmax in the container");
    kernel::must(size, "read a message of", name_of(id));
    image::IpcMsg entry;
    entry.set_mtype(message.type());
    entry.set_msize(static_cast<uint32_t>(size));
    std::string padded(message.text(), static_cast<size_t>(size));
    padded.resize((padded.size() + 7) / 8 * 8);
    writer.append(stem, entry, padded);
  }
}

}  // namespace

void dump_queues(const Dumping& dumping) {
  const std::string stem = fmt::format("ipcns-msg-{}", dumping.ns_id);
  msginfo info{};
  long last = kernel::must(kernel::call(SYS_msgctl, 0, MSG_INFO, &info), "list", "message queues");
  for (long index = 0; index <= last; ++index) {
    msqid_ds queue{};
    long found = kernel::call(SYS_msgctl, index, MSG_STAT, &queue);
    if (found == -EINVAL) continue;  // no such one
    auto id = static_cast<uint32_t>(kernel::must(found, "look at", "a message queue"));
    image::IpcMsgEntry entry;
    *entry.mutable_desc() =
        describe(static_cast<int>(id), queue.msg_perm, dumping.ids, name_of(id));
    entry.set_qbytes(static_cast<uint32_t>(queue.msg_qbytes));
    entry.set_qnum(static_cast<uint32_t>(queue.msg_qnum));
    dumping.writer.append(stem, entry);
    dump_messages(id, queue, stem, dumping.writer);
  }
}

void make_queue(const image::MessageQueue& queue, const userns::IdMap& ids) {
  const image::IpcDescEntry& desc = queue.entry.desc();
  const std::string name = name_of(desc.id());
  create_with_id(desc, "kernel/msg_next_id", ids, name, [&] {
    return kernel::call(SYS_msgget, static_cast<int>(desc.key()), IPC_CREAT | IPC_EXCL);
  });
  for (const image::IpcMessage& message : queue.messages) {
    Message copy(message.text.size());
    copy.type() = message.type;
    std::memcpy(copy.text(), message.text.data(), message.text.size());
    kernel::must(
        kernel::call(SYS_msgsnd, desc.id(), copy.words.data(), message.text.size(), IPC_NOWAIT),
        "fill", name);
  }
  msqid_ds now{};
  kernel::must(kernel::call(SYS_msgctl, desc.id(), IPC_STAT, &now), "look at", name);
  set_owner(now.msg_perm, desc, ids, name);
  now.msg_qbytes = queue.entry.qbytes();
  kernel::must(kernel::call(SYS_msgctl, desc.id(), IPC_SET, &now), "set the owner of", name);
}

}  // namespace stasis::engine::sysv
