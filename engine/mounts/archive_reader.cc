#include "engine/mounts/archive_reader.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <new>
#include <string_view>
#include <utility>

#include "kernel/fs.h"

namespace stasis::engine::mounts {

namespace {
constexpr size_t chunk = 128 << 10;
}

ArchiveReader::ArchiveReader(int file, std::string operation, std::string name,
                             std::vector<Filter> filters)
    : operation_(std::move(operation)),
      name_(std::move(name)),
      filters_(std::move(filters)),
      file_(file),
      buffer_(chunk) {
  kernel::must(kernel::call(SYS_lseek, file_, 0, SEEK_SET), "read", name_);
  open();
}

ArchiveReader::ArchiveReader(ArchiveReader& outer, std::string name)
    : operation_(outer.operation_),
      name_(std::move(name)),
      filters_(outer.filters_),
      outer_(&outer),
      buffer_(chunk) {
  open();
}

void ArchiveReader::open() {
  auto* a = archive_.get();
  if (!a) throw std::bad_alloc();
  check(archive_read_support_format_tar(a));
  for (Filter support : filters_) check(support(a));
  check(archive_read_set_read_callback(a, more));
  if (!outer_) check(archive_read_set_skip_callback(a, skip));
  check(archive_read_set_callback_data(a, this));
  check(archive_read_open1(a));
}

// Nothing may be thrown through the library.
la_ssize_t ArchiveReader::more(archive*, void* self, const void** bytes) {
  auto* reader = static_cast<ArchiveReader*>(self);
  std::vector<char>& buffer = reader->buffer_;
  try {
    *bytes = buffer.data();
    long n;
    if (ArchiveReader* outer = reader->outer_) {
      n = archive_read_data(outer->archive_.get(), buffer.data(), buffer.size());
      outer->check(n);
      return n;
    }
    do n = kernel::call(SYS_read, reader->file_, buffer.data(), buffer.size());
    while (n == -EINTR);
    return kernel::must(n, "read", reader->name_);
  } catch (...) {
    reader->failure_ = std::current_exception();
    return -1;
  }
}

// Not beyond the file's end, where a file that was cut short would look whole.
la_int64_t ArchiveReader::skip(archive*, void* self, la_int64_t count) {
  auto* reader = static_cast<ArchiveReader*>(self);
  try {
    long at =
        kernel::must(kernel::call(SYS_lseek, reader->file_, 0, SEEK_CUR), "read", reader->name_);
    int64_t left = static_cast<int64_t>(kernel::stat_fd(reader->file_).stx_size) - at;
    count = std::clamp<int64_t>(left, 0, count);
    kernel::must(kernel::call(SYS_lseek, reader->file_, count, SEEK_CUR), "read", reader->name_);
    return count;
  } catch (...) {
    reader->failure_ = std::current_exception();
    return ARCHIVE_FATAL;
  }
}

void ArchiveReader::fail(const std::string& path, const std::string& cause) const {
  throw Error(operation_, name_ + (path.empty() ? "" : " (" + path + ")")).because(cause);
}

void ArchiveReader::check(long result) {
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  if (result >= ARCHIVE_WARN) return;
  const char* said = archive_error_string(archive_.get());
  fail(said ? said : "the archive is damaged");
}

archive_entry* ArchiveReader::next() {
  path_.clear();
  int result = archive_read_next_header(archive_.get(), &entry_);
  if (failure_) check(result);
  if (result == ARCHIVE_EOF) return nullptr;
  check(result);
  const char* path = archive_entry_pathname(entry_);
  std::string_view plain = path ? path : "";
  while (plain.starts_with("./")) plain.remove_prefix(2);
  path_ = plain;
  return entry_;
}

bool ArchiveReader::is_file() const {
  return !archive_entry_hardlink(entry_) && archive_entry_filetype(entry_) == AE_IFREG;
}

uint64_t ArchiveReader::size() const {
  return static_cast<uint64_t>(std::max<int64_t>(archive_entry_size(entry_), 0));
}

void ArchiveReader::content(const std::function<void(const void*, size_t, uint64_t)>& take) {
  for (;;) {
    const void* bytes = nullptr;
    size_t count = 0;
    la_int64_t offset = 0;
    int result = archive_read_data_block(archive_.get(), &bytes, &count, &offset);
    if (result == ARCHIVE_EOF && !failure_) return;
    check(result);
    uint64_t size = this->size();
    if (offset < 0 || count > size || static_cast<uint64_t>(offset) > size - count)
      fail("it has more content than it says");
    take(bytes, count, static_cast<uint64_t>(offset));
  }
}

void ArchiveReader::copy_content(int out, const std::string& file) {
  content([&](const void* bytes, size_t count, uint64_t offset) {
    kernel::pwrite_all(out, bytes, count, static_cast<off_t>(offset), file);
  });
  kernel::must(kernel::call(SYS_ftruncate, out, size()), "set the size of", file);
}

std::string ArchiveReader::text(size_t limit) {
  if (size() > limit) fail("it is too large");
  std::string text(size(), '\0');
  content([&](const void* bytes, size_t count, uint64_t offset) {
    const char* from = static_cast<const char*>(bytes);
    std::copy(from, from + count, text.begin() + static_cast<ptrdiff_t>(offset));
  });
  return text;
}

}  // namespace stasis::engine::mounts
