// A socket's options, one of a fixed size at a time; throw Error(operation, subject).
#pragma once

#include <sys/socket.h>
#include <sys/syscall.h>

#include <cerrno>
#include <string_view>
#include <type_traits>

#include "kernel/call.h"

namespace stasis::kernel {

// Zeros where the kernel has less to tell.
template <typename T>
T socket_option(int fd, int level, int option, std::string_view operation,
                std::string_view subject) {
  T value{};
  socklen_t size = sizeof value;
  must(call(SYS_getsockopt, fd, level, option, &value, &size), operation, subject);
  return value;
}

template <typename T>
void set_socket_option(int fd, int level, int option, const T& value, std::string_view operation,
                       std::string_view subject) {
  static_assert(!std::is_same_v<T, bool>, "the kernel takes an int");
  must(call(SYS_setsockopt, fd, level, option, &value, sizeof value), operation, subject);
}

// The kind of socket, or this kernel, doesn't have the option.
inline bool lacks_option(long result) { return result == -ENOPROTOOPT || result == -EOPNOTSUPP; }

}  // namespace stasis::kernel
