#include "hook/tar_reader.h"

#include <archive.h>
#include <archive_entry.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <new>
#include <utility>

#include "base/error.h"
#include "kernel/fs.h"

namespace stasis::hook {

namespace {

constexpr size_t chunk = 128 << 10;

}  // namespace

TarReader::TarReader(int file, std::string name)
    : name_(std::move(name)), file_(file), archive_(archive_read_new()), buffer_(chunk) {
  kernel::must(kernel::call(SYS_lseek, file_, 0, SEEK_SET), "read", name_);
  open();
}

TarReader::TarReader(TarReader& outer, std::string name)
    : name_(std::move(name)), outer_(&outer), archive_(archive_read_new()), buffer_(chunk) {
  open();
}

TarReader::~TarReader() { archive_read_free(archive_); }

void TarReader::open() {
  if (!archive_) throw std::bad_alloc();
  try {
    check(archive_read_support_format_tar(archive_));
    check(archive_read_support_filter_gzip(archive_));
    check(archive_read_support_filter_zstd(archive_));
    check(archive_read_set_read_callback(archive_, more));
    if (!outer_) check(archive_read_set_skip_callback(archive_, skip));
    check(archive_read_set_callback_data(archive_, this));
    check(archive_read_open1(archive_));
  } catch (...) {
    archive_read_free(archive_);
    throw;
  }
}

// Nothing may be thrown through the library.
ssize_t TarReader::more(archive*, void* self, const void** bytes) {
  auto* reader = static_cast<TarReader*>(self);
  std::vector<char>& buffer = reader->buffer_;
  try {
    *bytes = buffer.data();
    long n;
    if (TarReader* outer = reader->outer_) {
      n = archive_read_data(outer->archive_, buffer.data(), buffer.size());
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
int64_t TarReader::skip(archive*, void* self, int64_t count) {
  auto* reader = static_cast<TarReader*>(self);
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

void TarReader::fail(const std::string& cause) const {
  throw Error("unpack", name_ + (path_.empty() ? "" : " (" + path_ + ")")).because(cause);
}

void TarReader::check(long result) {
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  if (result >= ARCHIVE_WARN) return;
  const char* said = archive_error_string(archive_);
  fail(said ? said : "the archive is damaged");
}

bool TarReader::next() {
  path_.clear();
  int result = archive_read_next_header(archive_, &entry_);
  if (failure_) check(result);
  if (result == ARCHIVE_EOF) return false;
  check(result);
  const char* path = archive_entry_pathname(entry_);
  std::string_view plain = path ? path : "";
  while (plain.starts_with("./")) plain.remove_prefix(2);
  path_ = plain;
  return true;
}

bool TarReader::is_file() const {
  return !archive_entry_hardlink(entry_) && archive_entry_filetype(entry_) == AE_IFREG;
}

uint64_t TarReader::size() const {
  return static_cast<uint64_t>(std::max<int64_t>(archive_entry_size(entry_), 0));
}

void TarReader::content(const std::function<void(const void*, size_t, uint64_t)>& take) {
  for (;;) {
    const void* bytes = nullptr;
    size_t count = 0;
    la_int64_t offset = 0;
    int result = archive_read_data_block(archive_, &bytes, &count, &offset);
    if (result == ARCHIVE_EOF && !failure_) return;
    check(result);
    uint64_t size = this->size();
    if (offset < 0 || count > size || static_cast<uint64_t>(offset) > size - count)
      fail("it has more content than it says");
    take(bytes, count, static_cast<uint64_t>(offset));
  }
}

std::string TarReader::text(size_t limit) {
  if (size() > limit) fail("it is too large");
  std::string text(size(), '\0');
  content([&](const void* bytes, size_t count, uint64_t offset) {
    const char* from = static_cast<const char*>(bytes);
    std::copy(from, from + count, text.begin() + static_cast<ptrdiff_t>(offset));
  });
  return text;
}

}  // namespace stasis::hook
