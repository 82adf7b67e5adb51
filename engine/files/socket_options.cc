#include "engine/files/socket_options.h"

#include <linux/filter.h>
#include <net/if.h>
#include <sys/time.h>

#include <array>
#include <string>
#include <vector>

#include "kernel/socket.h"

#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72
#endif

namespace stasis::engine::files {

namespace {

template <typename T>
T get(int fd, int option) {
  return kernel::socket_option<T>(fd, SOL_SOCKET, option, "read a socket's option",
                                  std::to_string(option));
}

template <typename T>
void set(int fd, int option, const T& value) {
  kernel::set_socket_option(fd, SOL_SOCKET, option, value, "set a socket's option",
                            std::to_string(option));
}

// Setting a value that is there already would need privileges for some.
void set_if_other(int fd, int option, int value) {
  if (get<int>(fd, option) != value) set(fd, option, value);
}

uint32_t get_number(int fd, int option) { return static_cast<uint32_t>(get<int>(fd, option)); }

bool passes_credentials(int fd) {
  int family = get<int>(fd, SO_DOMAIN);
  return family == AF_UNIX || family == AF_NETLINK;
}

void dump_device(int fd, image::SkOptsEntry& options) {
  auto name = kernel::socket_option<std::array<char, IFNAMSIZ>>(fd, SOL_SOCKET, SO_BINDTODEVICE,
                                                                "read the device of", "a socket");
  if (name[0]) options.set_so_bound_dev(name.data());
}

// An instruction is one number of the image. An eBPF program can't be read back: EACCES.
void dump_filter(int fd, image::SkOptsEntry& options) {
  socklen_t count = 0;
  auto read = [&](sock_filter* program) {
    kernel::must(kernel::call(SYS_getsockopt, fd, SOL_SOCKET, SO_GET_FILTER, program, &count),
                 "read the filter of", "a socket");
  };
  read(nullptr);
  if (count == 0) return;
  std::vector<sock_filter> program(count);
  read(program.data());
  for (const sock_filter& step : program)
    options.add_so_filter(uint64_t{step.code} << 48 | uint64_t{step.jt} << 40 |
                          uint64_t{step.jf} << 32 | step.k);
}

void restore_filter(int fd, const image::SkOptsEntry& options) {
  if (options.so_filter_size() == 0) return;
  std::vector<sock_filter> program;
  for (uint64_t step : options.so_filter())
    program.push_back({static_cast<uint16_t>(step >> 48), static_cast<uint8_t>(step >> 40),
                       static_cast<uint8_t>(step >> 32), static_cast<uint32_t>(step)});
  set(fd, SO_ATTACH_FILTER,
      sock_fprog{static_cast<unsigned short>(program.size()), program.data()});
}

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
  if (passes_credentials(fd)) {
    options.set_so_passcred(get<int>(fd, SO_PASSCRED) != 0);
    options.set_so_passsec(get<int>(fd, SO_PASSSEC) != 0);
  }
  options.set_so_dontroute(get<int>(fd, SO_DONTROUTE) != 0);
  options.set_so_no_check(get<int>(fd, SO_NO_CHECK) != 0);
  options.set_so_broadcast(get<int>(fd, SO_BROADCAST) != 0);
  options.set_so_keepalive(get<int>(fd, SO_KEEPALIVE) != 0);
  options.set_so_oobinline(get<int>(fd, SO_OOBINLINE));
  if (auto wait = get<linger>(fd, SO_LINGER); wait.l_onoff)
    options.set_so_linger(static_cast<uint32_t>(wait.l_linger));
  // Whether the kernel may still choose the sizes of the buffers; Linux 5.16.
  int locked = 0;
  socklen_t size = sizeof locked;
  long told = kernel::call(SYS_getsockopt, fd, SOL_SOCKET, SO_BUF_LOCK, &locked, &size);
  if (!kernel::lacks_option(told)) {
    kernel::must(told, "read which buffers are fixed of", "a socket");
    options.set_so_buf_lock(static_cast<uint32_t>(locked));
  }
  dump_device(fd, options);
  dump_filter(fd, options);
  return options;
}

void restore_socket_options(int fd, const image::SkOptsEntry& options) {
  // The kernel doubles what it is told.
  set(fd, SO_SNDBUFFORCE, static_cast<int>(options.so_sndbuf() / 2));
  set(fd, SO_RCVBUFFORCE, static_cast<int>(options.so_rcvbuf() / 2));
  if (options.has_so_buf_lock()) {
    auto locked = static_cast<int>(options.so_buf_lock());
    long result = kernel::call(SYS_setsockopt, fd, SOL_SOCKET, SO_BUF_LOCK, &locked, sizeof locked);
    if (!kernel::lacks_option(result)) kernel::must(result, "fix the buffers of", "a socket");
  }
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
  if (passes_credentials(fd)) {
    set_if_other(fd, SO_PASSCRED, options.so_passcred());
    set_if_other(fd, SO_PASSSEC, options.so_passsec());
  }
  set_if_other(fd, SO_DONTROUTE, options.so_dontroute());
  set_if_other(fd, SO_NO_CHECK, options.so_no_check());
  set_if_other(fd, SO_BROADCAST, options.so_broadcast());
  set_if_other(fd, SO_KEEPALIVE, options.so_keepalive());
  set_if_other(fd, SO_OOBINLINE, options.so_oobinline() != 0);
  if (options.has_so_linger()) set(fd, SO_LINGER, linger{1, static_cast<int>(options.so_linger())});
  restore_bound_device(fd, options);
  restore_filter(fd, options);
}

void restore_bound_device(int fd, const image::SkOptsEntry& options) {
  const std::string& name = options.so_bound_dev();
  if (!options.has_so_bound_dev()) return;
  kernel::must(kernel::call(SYS_setsockopt, fd, SOL_SOCKET, SO_BINDTODEVICE, name.c_str(),
                            static_cast<socklen_t>(name.size())),
               "bind a socket to the device", name);
}

void make_room(int fd) {
  constexpr int bytes = 64 << 20;
  set(fd, SO_SNDBUFFORCE, bytes);
  set(fd, SO_RCVBUFFORCE, bytes);
}

}  // namespace stasis::engine::files
