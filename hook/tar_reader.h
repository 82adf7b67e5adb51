// One tar, as it is or compressed with gzip or zstd: a file, or an entry of another
// tar. It is read once, from its beginning to its end.
#pragma once

#include <sys/types.h>

#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <vector>

struct archive;
struct archive_entry;

namespace stasis::hook {

class TarReader {
 public:
  // The file, whatever its position; `name` is for errors.
  TarReader(int file, std::string name);
  // What the entry holds at which `outer` stands.
  TarReader(TarReader& outer, std::string name);
  TarReader(const TarReader&) = delete;
  ~TarReader();

  // To the next entry; false: there is none.
  bool next();
  // Of this entry. A leading "./" is no part of it.
  const std::string& path() const { return path_; }
  bool is_file() const;
  // Zero where the entry doesn't say.
  uint64_t size() const;
  // Pieces of its content at their offsets; between them there are holes.
  void content(const std::function<void(const void*, size_t, uint64_t offset)>& take);
  // The whole of it; more than `limit` is an error.
  std::string text(size_t limit);
  [[noreturn]] void fail(const std::string& cause) const;

 private:
  static ssize_t more(archive*, void* self, const void** bytes);
  static int64_t skip(archive*, void* self, int64_t count);
  void open();
  void check(long result);

  std::string name_, path_;
  TarReader* outer_ = nullptr;
  int file_ = -1;
  archive* archive_;
  archive_entry* entry_ = nullptr;
  std::vector<char> buffer_;
  std::exception_ptr failure_;
};

}  // namespace stasis::hook
