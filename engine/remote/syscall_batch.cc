#include "engine/remote/syscall_batch.h"

#include <cerrno>

#include "base/error.h"

namespace stasis::engine {

namespace {

constexpr int64_t not_run = INT64_MIN;

bool failed(int64_t result) { return result < 0 && result >= -4095; }

void put_address(std::span<uint8_t> to, size_t at, uint64_t address) {
  memcpy(to.data() + at, &address, sizeof address);
}

}  // namespace

SyscallBatch::Data SyscallBatch::space(size_t size) {
  Data d{data_.size()};
  data_.resize(data_.size() + ((size + 7) & ~size_t{7}));
  return d;
}

SyscallBatch::Data SyscallBatch::data(const void* bytes, size_t size) {
  Data d = space(size);
  if (size > 0) memcpy(data_.data() + d.offset, bytes, size);
  return d;
}

void SyscallBatch::point(Data at, size_t offset, Data target, size_t into) {
  relocations_.push_back({at.offset + offset, false, target.offset + into});
}

SyscallBatch::Slot SyscallBatch::add(const char* what, long nr, bool must,
                                     std::vector<Argument> args) {
  Entry entry{static_cast<uint32_t>(nr), must ? stop_on_failure : 0u, {}, not_run};
  size_t index = entries_.size();
  for (size_t i = 0; i < args.size(); ++i) {
    entry.args[i] = args[i].value;
    if (args[i].is_data)
      relocations_.push_back(
          {index * sizeof(Entry) + offsetof(Entry, args) + i * 8, true, args[i].value});
  }
  entries_.push_back(entry);
  labels_.push_back(what);
  return {index};
}

void SyscallBatch::encode(uint64_t address, std::span<uint8_t> to) const {
  size_t table = entries_.size() * sizeof(Entry);
  if (to.size() < size())
    throw Error("place a batch of system calls", "").because("it is too large");
  memcpy(to.data(), entries_.data(), table);
  if (!data_.empty()) memcpy(to.data() + table, data_.data(), data_.size());
  for (const Relocation& r : relocations_)
    put_address(to, r.in_table ? r.at : table + r.at, address + table + r.target);
}

void SyscallBatch::decode(std::span<const uint8_t> from, const std::string& who) {
  size_t table = entries_.size() * sizeof(Entry);
  for (size_t i = 0; i < entries_.size(); ++i)
    memcpy(&entries_[i].result, from.data() + i * sizeof(Entry) + offsetof(Entry, result), 8);
  if (!data_.empty()) memcpy(data_.data(), from.data() + table, data_.size());
  for (size_t i = 0; i < entries_.size(); ++i) {
    const Entry& entry = entries_[i];
    if (!(entry.flags & stop_on_failure)) continue;
    if (entry.result == not_run)
      throw Error(labels_[i], who).because("the task did not run the system call");
    if (failed(entry.result))
      throw Error(labels_[i], who).with_errno(static_cast<int>(-entry.result));
  }
}

}  // namespace stasis::engine
