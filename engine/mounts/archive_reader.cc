#include "engine/mounts/archive_reader.h"

#include <sys/syscall.h>

#include <new>
#include <utility>

#include "kernel/fs.h"

namespace stasis::engine::mounts {

namespace {
constexpr size_t chunk = 128 << 10;
}

ArchiveReader::ArchiveReader(int in, std::string operation, std::string name,
                             std::initializer_list<int (*)(archive*)> filters)
    : in_(in), operation_(std::move(operation)), name_(std::move(name)), buffer_(chunk) {
  auto* a = archive_.get();
  if (!a) throw std::bad_alloc();
  check(archive_read_support_format_tar(a), "");
  for (auto support : filters) check(support(a), "");
  check(archive_read_open(a, this, nullptr, read_in, nullptr), "");
}

la_ssize_t ArchiveReader::read_in(archive*, void* self, const void** bytes) {
  auto* reader = static_cast<ArchiveReader*>(self);
  try {
    *bytes = reader->buffer_.data();
    for (;;) {
      long n = kernel::call(SYS_read, reader->in_, reader->buffer_.data(), reader->buffer_.size());
      if (n != -EINTR) return kernel::must(n, "read", reader->name_);
    }
  } catch (...) {  // must not pass through the library
    reader->failure_ = std::current_exception();
    return -1;
  }
}

void ArchiveReader::fail(const std::string& path, const std::string& cause) const {
  throw Error(operation_, name_ + (path.empty() ? "" : " (" + path + ")")).because(cause);
}

void ArchiveReader::check(int result, const std::string& path) {
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  if (result >= ARCHIVE_WARN) return;
  const char* said = archive_error_string(archive_.get());
  fail(path, said ? said : "the archive is damaged");
}

archive_entry* ArchiveReader::next() {
  archive_entry* entry = nullptr;
  int result = archive_read_next_header(archive_.get(), &entry);
  if (result == ARCHIVE_EOF) return nullptr;
  check(result, "");
  return entry;
}

void ArchiveReader::copy_content(archive_entry* entry, int out, const std::string& path,
                                 const std::string& file) {
  const int64_t size = archive_entry_size(entry);
  for (;;) {
    const void* bytes = nullptr;
    size_t count = 0;
    la_int64_t offset = 0;
    int result = archive_read_data_block(archive_.get(), &bytes, &count, &offset);
    if (result == ARCHIVE_EOF) break;
    check(result, path);
    if (offset < 0 || count > static_cast<uint64_t>(size) ||
        offset > size - static_cast<int64_t>(count))
      fail(path, "it has more content than it says");
    kernel::pwrite_all(out, bytes, count, offset, file);
  }
  kernel::must(kernel::call(SYS_ftruncate, out, size), "set the size of", file);
}

}  // namespace stasis::engine::mounts
