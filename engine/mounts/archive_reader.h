// Reads a tar archive, entry after entry. It is believed no more than any other image.
#pragma once

#include <archive.h>
#include <archive_entry.h>

#include <exception>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

namespace stasis::engine::mounts {

class ArchiveReader {
 public:
  // `operation` and `name` are for messages. `filters`: archive_read_support_filter_*.
  ArchiveReader(int in, std::string operation, std::string name,
                std::initializer_list<int (*)(archive*)> filters);
  ArchiveReader(const ArchiveReader&) = delete;
  ArchiveReader& operator=(const ArchiveReader&) = delete;

  // Valid until the next call; null at the end.
  archive_entry* next();
  // What the file that next() told of holds, into `out`, which is empty and gets its
  // size. `path` is for messages of the archive, `file` for those of `out`.
  void copy_content(archive_entry* entry, int out, const std::string& path,
                    const std::string& file);
  [[noreturn]] void fail(const std::string& path, const std::string& cause) const;

 private:
  static la_ssize_t read_in(archive*, void* self, const void** bytes);
  void check(int result, const std::string& path);

  struct Freer {
    void operator()(archive* a) const { archive_read_free(a); }
  };

  int in_;
  std::string operation_, name_;
  std::vector<char> buffer_;
  std::unique_ptr<archive, Freer> archive_{archive_read_new()};
  std::exception_ptr failure_;  // of read_in()
};

}  // namespace stasis::engine::mounts
