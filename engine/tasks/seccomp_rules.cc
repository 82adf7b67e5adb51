#include "engine/tasks/seccomp_rules.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <set>
#include <vector>

namespace stasis::engine {

namespace {

constexpr int last_number = 1023;  // above all system calls there are
constexpr int x32_bit = 0x40000000;

std::vector<sock_filter> instructions_of(std::string_view program) {
  std::vector<sock_filter> result(program.size() / sizeof(sock_filter));
  program.copy(reinterpret_cast<char*>(result.data()), result.size() * sizeof(sock_filter));
  return result;
}

// The processor of classic BPF, as far as seccomp's checker lets programs use it.
class Machine {
 public:
  // Adds to `telling` the numbers that arguments are compared with.
  Machine(const seccomp_data& data, std::set<uint32_t>& telling) : data_(data), telling_(telling) {}

  // The filter's decision; nothing where the program isn't understood.
  std::optional<uint32_t> run(const std::vector<sock_filter>& program) {
    for (size_t at = 0; at < program.size(); ++at) {
      const sock_filter& i = program[at];
      switch (BPF_CLASS(i.code)) {
        case BPF_LD:
          if (!load(i)) return std::nullopt;
          break;
        case BPF_LDX:
          x_ = BPF_MODE(i.code) == BPF_MEM ? memory_[i.k & 15] : i.k;
          break;
        case BPF_ST:
          memory_[i.k & 15] = a_;
          break;
        case BPF_STX:
          memory_[i.k & 15] = x_;
          break;
        case BPF_ALU:
          if (!compute(i)) return std::nullopt;
          break;
        case BPF_JMP:
          at += BPF_OP(i.code) == BPF_JA ? i.k : compare(i) ? i.jt : i.jf;
          break;
        case BPF_RET:
          return BPF_RVAL(i.code) == BPF_A ? a_ : i.k;
        default:  // BPF_MISC
          (BPF_MISCOP(i.code) == BPF_TAX ? x_ : a_) = BPF_MISCOP(i.code) == BPF_TAX ? a_ : x_;
      }
    }
    return std::nullopt;
  }

 private:
  bool load(const sock_filter& i) {
    switch (BPF_MODE(i.code)) {
      case BPF_IMM:
        a_ = i.k;
        return true;
      case BPF_MEM:
        a_ = memory_[i.k & 15];
        return true;
      case BPF_LEN:
        a_ = sizeof data_;
        return true;
      case BPF_ABS:
        if (i.k > sizeof data_ - sizeof a_) return false;
        memcpy(&a_, reinterpret_cast<const char*>(&data_) + i.k, sizeof a_);
        is_argument_ = i.k >= offsetof(seccomp_data, instruction_pointer);
        return true;
      default:
        return false;
    }
  }

  bool compute(const sock_filter& i) {
    uint32_t by = BPF_SRC(i.code) == BPF_X ? x_ : i.k;
    switch (BPF_OP(i.code)) {
      case BPF_ADD:
        a_ += by;
        return true;
      case BPF_SUB:
        a_ -= by;
        return true;
      case BPF_AND:
        a_ &= by;
        return true;
      case BPF_OR:
        a_ |= by;
        return true;
      case BPF_XOR:
        a_ ^= by;
        return true;
      case BPF_LSH:
        a_ = by < 32 ? a_ << by : 0;
        return true;
      case BPF_RSH:
        a_ = by < 32 ? a_ >> by : 0;
        return true;
      case BPF_NEG:
        a_ = -a_;
        return true;
      default:
        return false;  // nobody multiplies
    }
  }

  bool compare(const sock_filter& i) {
    uint32_t with = BPF_SRC(i.code) == BPF_X ? x_ : i.k;
    if (is_argument_) telling_.insert({with, with + 1, with - 1});
    switch (BPF_OP(i.code)) {
      case BPF_JEQ:
        return a_ == with;
      case BPF_JGT:
        return a_ > with;
      case BPF_JGE:
        return a_ >= with;
      default:
        return (a_ & with) != 0;
    }
  }

  const seccomp_data& data_;
  uint32_t a_ = 0, x_ = 0;
  std::array<uint32_t, 16> memory_{};
  std::set<uint32_t>& telling_;
  bool is_argument_ = false;  // a_ comes from one
};

class Comparison {
 public:
  Comparison(std::string_view a, std::string_view b)
      : a_(instructions_of(a)), b_(instructions_of(b)) {}

  bool same() {
    for (uint32_t arch : {uint32_t{AUDIT_ARCH_X86_64}, uint32_t{AUDIT_ARCH_I386}})
      for (int base : {0, x32_bit})
        for (int number = 0; number <= last_number; ++number)
          if (!same_for(arch, base + number)) return false;
    return same_for(AUDIT_ARCH_AARCH64, 0) && same_for(AUDIT_ARCH_X86_64, -1);
  }

 private:
  // With all arguments 0, and with every number that either program compares an
  // argument with as one of them or all.
  bool same_for(uint32_t arch, int number) {
    seccomp_data data{};
    data.nr = number;
    data.arch = arch;
    std::set<uint32_t> telling, done;
    if (!same_for(data, telling)) return false;
    while (telling.size() > done.size()) {
      std::set<uint32_t> now = telling;
      for (uint32_t word : now)
        if (done.insert(word).second && !same_with(data, word, telling)) return false;
    }
    return true;
  }

  bool same_with(seccomp_data data, uint32_t word, std::set<uint32_t>& telling) {
    constexpr int arguments = 6;
    for (uint64_t value : {uint64_t{word}, uint64_t{word} << 32, uint64_t{word} << 32 | word})
      for (int only = -1; only < arguments; ++only) {
        for (int i = 0; i < arguments; ++i) data.args[i] = only < 0 || only == i ? value : 0;
        if (!same_for(data, telling)) return false;
      }
    return true;
  }

  bool same_for(const seccomp_data& data, std::set<uint32_t>& telling) const {
    auto a = Machine(data, telling).run(a_), b = Machine(data, telling).run(b_);
    return a && b && *a == *b;
  }

  std::vector<sock_filter> a_, b_;
};

}  // namespace

bool same_rules(std::string_view a, std::string_view b) {
  return a == b || Comparison(a, b).same();
}

}  // namespace stasis::engine
