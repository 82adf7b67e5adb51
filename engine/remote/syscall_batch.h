// A list of system calls that a stopped task runs in one go, with the data
// they point to. Built without a task (and so unit-testable), run by a
// HealingStub (a task that lives on) or a Trampoline (a task we are making).
//
//   SyscallBatch batch;
//   auto old = batch.space(sizeof(itimerval));
//   auto get = batch.must("read its interval timer", SYS_getitimer, ITIMER_REAL, old);
//   stub.run(batch);
//   batch.view<itimerval>(old);
//
// The table runs in order and stops at the first must() that fails; run()
// then throws, naming that call. may() calls can fail; look at result().
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

namespace stasis::engine {

class SyscallBatch {
 public:
  // One call as the code in the task reads it (engine/remote/batch_code.h).
  struct Entry {
    uint32_t nr;
    uint32_t flags;
    uint64_t args[6];
    int64_t result;
  };
  static_assert(sizeof(Entry) == 64);
  enum Flag : uint32_t { stop_on_failure = 1, keep_result_in_register = 2 };

  struct Slot {
    size_t index;
  };
  struct Data {
    size_t offset;
  };

  // Data that travels with the batch, 8-byte aligned: given bytes, or room.
  Data data(const void* bytes, size_t size);
  Data space(size_t size);
  Data text(const std::string& s) { return data(s.c_str(), s.size() + 1); }
  template <typename T>
  Data object(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    return data(&value, sizeof value);
  }
  // Makes the 8 bytes at `at`+`offset` hold the task's address of `target`.
  void point(Data at, size_t offset, Data target, size_t into = 0);

  template <typename... Args>
  Slot must(const char* what, long nr, Args... args) {
    return add(what, nr, true, {argument(args)...});
  }
  template <typename... Args>
  Slot may(long nr, Args... args) {
    return add("", nr, false, {argument(args)...});
  }

  bool empty() const { return entries_.empty(); }
  size_t calls() const { return entries_.size(); }
  size_t size() const { return entries_.size() * sizeof(Entry) + data_.size(); }

  // Writes table and data as they must stand at `address` in the task.
  void encode(uint64_t address, std::span<uint8_t> to) const;
  // Takes over results and data from what the task left there, and throws for
  // a must() that failed. `who` names the task in the error.
  void decode(std::span<const uint8_t> from, const std::string& who);

  long result(Slot slot) const { return entries_[slot.index].result; }
  template <typename T>
  T view(Data d) const {
    static_assert(std::is_trivially_copyable_v<T>);
    T value;
    memcpy(&value, data_.data() + d.offset, sizeof value);
    return value;
  }
  const uint8_t* bytes(Data d) const { return data_.data() + d.offset; }

 private:
  struct Argument {
    uint64_t value;
    bool is_data;
  };
  static Argument argument(Data d) { return {d.offset, true}; }
  template <typename T>
  static Argument argument(T value) {
    if constexpr (std::is_null_pointer_v<T>)
      return {0, false};
    else
      return {static_cast<uint64_t>(value), false};
  }
  Slot add(const char* what, long nr, bool must, std::vector<Argument> args);

  struct Relocation {
    size_t at;  // offset in the encoded batch's table (args) or data
    bool in_table;
    size_t target;  // offset in data
  };

  std::vector<Entry> entries_;
  std::vector<const char*> labels_;
  std::vector<uint8_t> data_;
  std::vector<Relocation> relocations_;
};

}  // namespace stasis::engine
