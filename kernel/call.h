// The one place where stasis enters the kernel. Every wrapper in this folder
// and every direct system call of the engine goes through call(), so that a
// test build (stasis-faulty) can count the calls and fail, or kill the engine
// at, the Nth: STASIS_FAIL_AT=N and STASIS_KILL_AT=N in the environment.
#pragma once

#include <cstdint>
#include <string_view>
#include <type_traits>

#include "base/error.h"
#include "base/unique_fd.h"

namespace stasis::kernel {

// Returns the result, or -errno. errno itself is not part of the contract.
long raw_call(long nr, long a1, long a2, long a3, long a4, long a5, long a6);

// No call of this process is failed on purpose any more: for one that clears up
// behind another that a test has killed.
void spare_this_process();

template <typename T>
long as_argument(T value) {
  if constexpr (std::is_pointer_v<T>)
    return reinterpret_cast<long>(value);
  else if constexpr (std::is_null_pointer_v<T>)
    return 0;
  else
    return static_cast<long>(value);
}

template <typename... Args>
long call(long nr, Args... args) {
  static_assert(sizeof...(args) <= 6);
  long a[6] = {as_argument(args)...};
  return raw_call(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
}

// Throws Error(operation, subject) with the errno when `result` is negative.
inline long must(long result, std::string_view operation, std::string_view subject = {}) {
  if (result < 0)
    throw Error(std::string(operation), std::string(subject)).with_errno(static_cast<int>(-result));
  return result;
}

}  // namespace stasis::kernel
