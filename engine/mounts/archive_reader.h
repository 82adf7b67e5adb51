// Reads a tar, as it is or compressed: a file, or an entry of another tar; once, from
// its beginning to its end. It is believed no more than any other image.
#pragma once

#include <archive.h>
#include <archive_entry.h>

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace stasis::engine::mounts {

class ArchiveReader {
 public:
  using Filter = int (*)(archive*);
  // The file, whatever its position. `operation` and `name` are for errors.
  // `filters`: archive_read_support_filter_*.
  ArchiveReader(int file, std::string operation, std::string name, std::vector<Filter> filters);
  // What the entry holds at which `outer` stands.
  ArchiveReader(ArchiveReader& outer, std::string name);
  ArchiveReader(const ArchiveReader&) = delete;
  ArchiveReader& operator=(const ArchiveReader&) = delete;

  // Valid until the next call; null at the end.
  archive_entry* next();
  // Of this entry. A leading "./" is no part of it.
  const std::string& path() const { return path_; }
  bool is_file() const;
  uint64_t size() const;  // zero where the entry doesn't say
  // Pieces of its content at their offsets; between them there are holes.
  void content(const std::function<void(const void*, size_t, uint64_t offset)>& take);
  // All of it into `out`, which is empty and gets its size; `file` is for errors of `out`.
  void copy_content(int out, const std::string& file);
  // The whole of it; more than `limit` is an error.
  std::string text(size_t limit);
  [[noreturn]] void fail(const std::string& cause) const { fail(path_, cause); }
  [[noreturn]] void fail(const std::string& path, const std::string& cause) const;

 private:
  static la_ssize_t more(archive*, void* self, const void** bytes);
  static la_int64_t skip(archive*, void* self, la_int64_t count);
  void open();
  void check(long result);

  struct Freer {
    void operator()(archive* a) const { archive_read_free(a); }
  };

  std::string operation_, name_, path_;
  std::vector<Filter> filters_;
  ArchiveReader* outer_ = nullptr;
  int file_ = -1;
  std::vector<char> buffer_;
  std::unique_ptr<archive, Freer> archive_{archive_read_new()};
  archive_entry* entry_ = nullptr;
  std::exception_ptr failure_;  // of more() and skip()
};

}  // namespace stasis::engine::mounts
