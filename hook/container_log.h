// Where a container's output is written down, for dev.stasis.snapshot-when's log=: the file
// that it goes to, or the one that the reader of its pipe (podman's and CRI-O's
// conmon, containerd's shim) writes. A pipe itself has one reader, which isn't us.
#pragma once

#include <sys/types.h>

#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"

namespace stasis::hook {

using LineMatch = std::function<bool(std::string_view)>;

// Whole lines out of bytes as they come. conmon's have a date, the stream and
// whether the line goes on in the next one before the text.
class LogLines {
 public:
  // True: one of the lines that `bytes` complete is what `match` looks for.
  bool add(std::string_view bytes, const LineMatch& match);

 private:
  bool end_of_line(const LineMatch& match);

  std::string line_;  // as far as it has come
  std::string text_;  // of those before it that go on in it
};

class ContainerLog {
 public:
  // Standard output and error of `init`, as its runtime made them. Throws Error
  // where neither is to be found in a file.
  explicit ContainerLog(pid_t init);

  // What is written from now on counts. The program is about to run.
  void begin();
  // Whether a line since the last call matches. Throws Error where no file has come up.
  bool said(const LineMatch& match);
  // Readable when there may be more.
  int events() const { return events_.get(); }

 private:
  struct File {
    UniqueFd fd;
    pid_t writer;  // 0: the container itself
    off_t position;
    LogLines lines;
  };
  void follow(pid_t init, int fd);
  void add(UniqueFd found, pid_t writer);
  File open(const UniqueFd& found, pid_t writer);
  static UniqueFd successor(const File& file);
  static bool read(File& file, const LineMatch& match);

  UniqueFd events_;
  std::vector<File> files_;
  std::set<pid_t> late_;  // readers that open their file only when the container is made
  std::optional<Error> failure_;
};

}  // namespace stasis::hook
