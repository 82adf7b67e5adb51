#include "engine/tasks/seccomp_rules.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>

#include <catch2/catch.hpp>
#include <cstddef>
#include <string>
#include <vector>

using namespace stasis::engine;

namespace {

constexpr uint32_t allow = SECCOMP_RET_ALLOW, refuse = SECCOMP_RET_ERRNO | 1;

std::string text(const std::vector<sock_filter>& program) {
  return {reinterpret_cast<const char*>(program.data()), program.size() * sizeof(sock_filter)};
}

sock_filter load(size_t at) {
  return BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(at));
}

sock_filter jump(uint16_t op, uint32_t k, uint8_t yes, uint8_t no) {
  return BPF_JUMP(static_cast<uint16_t>(BPF_JMP | op | BPF_K), k, yes, no);
}

sock_filter done(uint32_t value) { return BPF_STMT(BPF_RET | BPF_K, value); }

constexpr size_t number = offsetof(seccomp_data, nr);
constexpr size_t first_argument = offsetof(seccomp_data, args);

// Refuses the listed system calls.
std::string list(const std::vector<uint32_t>& refused) {
  std::vector<sock_filter> program{load(number)};
  for (uint32_t one : refused) {
    program.push_back(jump(BPF_JEQ, one, 0, 1));
    program.push_back(done(refuse));
  }
  program.push_back(done(allow));
  return text(program);
}

std::string by_argument(uint32_t value) {
  return text({load(number), jump(BPF_JEQ, SYS_socket, 0, 3), load(first_argument),
               jump(BPF_JEQ, value, 0, 1), done(refuse), done(allow)});
}

}  // namespace

TEST_CASE("filters of the same rules are the same in any order") {
  CHECK(same_rules(list({1, 2, 3}), list({3, 1, 2})));
  CHECK(same_rules(list({1, 2, 2}), list({2, 1})));
  CHECK_FALSE(same_rules(list({1, 2, 3}), list({1, 2})));
  CHECK_FALSE(same_rules(list({1, 2, 3}), list({1, 2, 4})));
  CHECK_FALSE(same_rules(list({}), list({450})));
}

TEST_CASE("filters that differ in an argument differ") {
  CHECK(same_rules(by_argument(40), by_argument(40)));
  CHECK_FALSE(same_rules(by_argument(40), by_argument(41)));
  CHECK_FALSE(same_rules(by_argument(40), list({})));
  CHECK_FALSE(same_rules(by_argument(40), list({SYS_socket})));
  // Written the other way round.
  CHECK(same_rules(by_argument(40),
                   text({load(first_argument), jump(BPF_JEQ, 40, 0, 3), load(number),
                         jump(BPF_JEQ, SYS_socket, 0, 1), done(refuse), done(allow)})));
}

TEST_CASE("a program that can't be understood is like no other") {
  std::string odd = text({load(4096), done(allow)});
  CHECK(same_rules(odd, odd));
  CHECK_FALSE(same_rules(odd, list({})));
  CHECK_FALSE(same_rules(text({load(number)}), list({})));
  CHECK_FALSE(same_rules("", list({})));
}
