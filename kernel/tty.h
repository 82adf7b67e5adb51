// Terminals: what ioctl tells of and does to an open one.
#pragma once

#include <asm/termbits.h>  // not to be mixed with libc's <termios.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/types.h>

#include <optional>
#include <string_view>

#include "kernel/call.h"

namespace stasis::kernel {

inline constexpr unsigned tty_major = 5;  // /dev/tty and /dev/ptmx
inline constexpr unsigned current_tty_minor = 0, ptmx_minor = 2;
inline constexpr unsigned pty_slave_major = 136;
inline constexpr unsigned pty_limit = 1 << 20;  // minor numbers

// The kernel's encoding of device numbers in one word, as in stat's tty_nr.
inline unsigned decoded_major(unsigned device) { return (device >> 8) & 0xfff; }
inline unsigned decoded_minor(unsigned device) {
  return (device & 0xff) | ((device >> 12) & 0xfff00);
}

// One ioctl with an argument that it reads or fills; throws Error.
template <typename T>
void tty_ioctl(int fd, unsigned long request, T* argument, std::string_view what) {
  must(call(SYS_ioctl, fd, request, argument), what, "a terminal");
}

// Its other end, or the session that had it, is gone: it can only be closed.
bool is_hung_up(int fd);

termios tty_settings(int fd);
termios locked_tty_settings(int fd);
void set_tty_settings(int fd, const termios& settings);
void lock_tty_settings(int fd, const termios& locked);

int pty_index(int master);
// The terminal behind /dev/tty, say, in the kernel's encoding.
unsigned tty_device(int fd);
int line_discipline(int fd);
bool is_pty_locked(int master);
void set_pty_locked(int master, bool locked);
bool is_tty_exclusive(int fd);
bool has_packet_mode(int master);
void set_packet_mode(int master, bool on);
// The session (its leader in our pid namespace) whose terminal a pty is, asked
// through its master; 0: none.
pid_t session_of_pty(int master);
// Whether the last slave of it was closed; a new one never had any.
bool had_pty_slave(int master);
// Another open file of the other end.
UniqueFd open_pty_peer(int master, int flags);

}  // namespace stasis::kernel
