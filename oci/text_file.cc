#include "oci/text_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/error.h"
#include "base/unique_fd.h"

namespace stasis::oci {

std::string read_text_file(const std::string& path) {
  constexpr size_t limit = 16 << 20;
  // O_NONBLOCK: a FIFO put in the file's place must not hold us up.
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd) throw Error("open", path).with_errno(errno);
  struct stat stat{};
  if (::fstat(fd.get(), &stat) != 0) throw Error("read", path).with_errno(errno);
  if (!S_ISREG(stat.st_mode)) throw Error("read", path).because("not a regular file");
  if (static_cast<size_t>(stat.st_size) > limit) throw Error("read", path).with_errno(EFBIG);
  std::string text;
  char buffer[16384];
  while (text.size() <= limit) {
    ssize_t n = ::read(fd.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw Error("read", path).with_errno(errno);
    if (n == 0) return text;
    text.append(buffer, static_cast<size_t>(n));
  }
  throw Error("read", path).with_errno(EFBIG);
}

}  // namespace stasis::oci
