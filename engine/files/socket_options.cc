#include "engine/files/socket_options.h"

#include <fmt/core.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include "kernel/call.h"

namespace stasis::engine::files {

namespace {

template <typename T>
T get(int fd, int option) {
  T value{};
  socklen_t size = sizeof value;
  kernel::must(kernel::call(SYS_getsockopt, fd, SOL_SOCKET, option, &value, &size),
               "read a socket's option", fmt::format("{}", option));
  return value;
}

template <typename T>
void set(int fd, int option, const T& value) {
  kernel::must(kernel::call(SYS_setsockopt, fd, SOL_SOCKET, option, &value, sizeof value),
               "set a socket's option", fmt::format("{}", option));
}

// Setting a value that is there already would need privileges for some.
void set_if_other(int fd, int option, int value) {
  if (get<int>(fd, option) != value) set(fd, option, value);
}

uint32_t get_number(int fd, int option) { return static_cast<uint32_t>(get<int>(fd, option)); }

}  // namespace

image::SkOptsEntry dump_socket_options(int fd) {
  image::SkOptsEntry options;
  options.set_so_sndbuf(get_number(fd, SO_SNDBUF));
  options.set_so_rcvbuf(get_number(fd, SO_RCVBUF));
  auto send = get<timeval>(fd, SO_SNDTIMEO), receive = get<timeval>(fd, SO_RCVTIMEO);
  options.set_so_snd_tmo_sec(static_cast<uint64_t>(send.tv_sec));
  options.set_so_snd_tmo_usec(static_cast<uint64_t>(send.tv_usec));
  options.set_so_rcv_tmo_sec(static_cast<uint64_t>(receive.tv_sec));
  options.set_so_rcv_tmo_usec(static_cast<uint64_t>(receive.tv_usec));
  options.set_so_priority(get_number(fd, SO_PRIORITY));
  options.set_so_rcvlowat(get_number(fd, SO_RCVLOWAT));
  if (uint32_t mark = get_number(fd, SO_MARK)) options.set_so_mark(mark);
  options.set_reuseaddr(get<int>(fd, SO_REUSEADDR) != 0);
  options.set_so_reuseport(get<int>(fd, SO_REUSEPORT) != 0);
  options.set_so_passcred(get<int>(fd, SO_PASSCRED) != 0);
  options.set_so_passsec(get<int>(fd, SO_PASSSEC) != 0);
  options.set_so_dontroute(get<int>(fd, SO_DONTROUTE) != 0);
  options.set_so_no_check(get<int>(fd, SO_NO_CHECK) != 0);
  options.set_so_broadcast(get<int>(fd, SO_BROADCAST) != 0);
  options.set_so_keepalive(get<int>(fd, SO_KEEPALIVE) != 0);
  options.set_so_oobinline(get<int>(fd, SO_OOBINLINE));
  if (auto wait = get<linger>(fd, SO_LINGER); wait.l_onoff)
    options.set_so_linger(static_cast<uint32_t>(wait.l_linger));
  return options;
}

void restore_socket_options(int fd, const image::SkOptsEntry& options) {
  // The kernel doubles what it is told.
  set(fd, SO_SNDBUFFORCE, static_cast<int>(options.so_sndbuf() / 2));
  set(fd, SO_RCVBUFFORCE, static_cast<int>(options.so_rcvbuf() / 2));
  set(fd, SO_SNDTIMEO,
      timeval{static_cast<time_t>(options.so_snd_tmo_sec()),
              static_cast<suseconds_t>(options.so_snd_tmo_usec())});
  set(fd, SO_RCVTIMEO,
      timeval{static_cast<time_t>(options.so_rcv_tmo_sec()),
              static_cast<suseconds_t>(options.so_rcv_tmo_usec())});
  if (options.has_so_priority())
    set_if_other(fd, SO_PRIORITY, static_cast<int>(options.so_priority()));
  if (options.has_so_rcvlowat())
    set_if_other(fd, SO_RCVLOWAT, static_cast<int>(options.so_rcvlowat()));
  if (options.has_so_mark()) set_if_other(fd, SO_MARK, static_cast<int>(options.so_mark()));
  set_if_other(fd, SO_REUSEADDR, options.reuseaddr());
  set_if_other(fd, SO_PASSCRED, options.so_passcred());
  set_if_other(fd, SO_PASSSEC, options.so_passsec());
  set_if_other(fd, SO_DONTROUTE, options.so_dontroute());
  set_if_other(fd, SO_NO_CHECK, options.so_no_check());
  set_if_other(fd, SO_BROADCAST, options.so_broadcast());
  set_if_other(fd, SO_KEEPALIVE, options.so_keepalive());
  set_if_other(fd, SO_OOBINLINE, options.so_oobinline() != 0);
  if (options.has_so_linger()) set(fd, SO_LINGER, linger{1, static_cast<int>(options.so_linger())});
}

void make_room(int fd) {
  constexpr int bytes = 64 << 20;
  set(fd, SO_SNDBUFFORCE, bytes);
  set(fd, SO_RCVBUFFORCE, bytes);
}

}  // namespace stasis::engine::files
