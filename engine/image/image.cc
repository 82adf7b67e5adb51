#include "engine/image/image.h"

#include <google/protobuf/descriptor.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <cstring>
#include <utility>

#include "base/scope_exit.h"
#include "kernel/fs.h"

namespace stasis::image {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

constexpr int open_flags = O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
constexpr uint64_t beneath = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;

std::string file_name(std::string_view stem) { return std::string(stem) + ".img"; }

// The name of a string field with a NUL inside, or empty. Such a string would
// be one thing to us and another to the kernel.
std::string find_nul(const Message& message) {
  const auto* reflection = message.GetReflection();
  const auto* type = message.GetDescriptor();
  std::string scratch;
  for (int i = 0; i < type->field_count(); ++i) {
    const FieldDescriptor* field = type->field(i);
    bool is_string = field->type() == FieldDescriptor::TYPE_STRING;
    if (!is_string && field->type() != FieldDescriptor::TYPE_MESSAGE) continue;
    int count = field->is_repeated() ? reflection->FieldSize(message, field)
                                     : reflection->HasField(message, field);
    for (int k = 0; k < count; ++k) {
      if (is_string) {
        const std::string& text =
            field->is_repeated()
                ? reflection->GetRepeatedStringReference(message, field, k, &scratch)
                : reflection->GetStringReference(message, field, &scratch);
        if (text.find('\0') != std::string::npos) return field->name();
      } else {
        std::string inner =
            find_nul(field->is_repeated() ? reflection->GetRepeatedMessage(message, field, k)
                                          : reflection->GetMessage(message, field));
        if (!inner.empty()) return field->name() + "." + inner;
      }
    }
  }
  return {};
}

}  // namespace

Error bad_image(std::string_view stem, int64_t entry, const std::string& cause) {
  std::string where = entry < 0 ? "" : "entry " + std::to_string(entry) + ": ";
  return Error("read image", file_name(stem))
      .because(where + cause)
      .hint(
          "the checkpoint is damaged or was made by a program that stasis does not know; "
          "make it again, or restore it with the program that made it");
}

Reader::Reader(std::string stem, std::string bytes, const Limits& limits)
    : stem_(std::move(stem)), bytes_(std::move(bytes)), limits_(limits) {
  const Format* format = format_of(stem_);
  if (!format) throw bad_image(stem_, -1, "is of no known kind");
  uint32_t magic = word("magic");
  if (format->magic != inventory_magic) {
    if (magic != (format->name == "stats" ? service_magic : common_magic))
      throw bad_image(stem_, -1, "does not begin as an image does");
    magic = word("magic");
  }
  if (magic != format->magic) throw bad_image(stem_, -1, "has the magic of another kind of image");
}

uint32_t Reader::word(const char* what) {
  uint32_t value = 0;
  if (remaining() < sizeof value) throw error(std::string("ends inside a ") + what);
  std::memcpy(&value, bytes_.data() + at_, sizeof value);
  at_ += sizeof value;
  return value;
}

bool Reader::next(Message& entry) {
  if (remaining() == 0) return false;
  if (++entry_ >= limits_.entries)
    throw error("more than " + std::to_string(limits_.entries) + " entries");
  uint32_t size = word("size");
  if (size > remaining())
    throw error("says it has " + std::to_string(size) + " bytes, " + std::to_string(remaining()) +
                " are left");
  bool parsed = entry.ParsePartialFromArray(bytes_.data() + at_, static_cast<int>(size));
  if (!parsed || size > INT32_MAX) throw error("is no " + entry.GetDescriptor()->name());
  if (!entry.IsInitialized()) throw error("lacks " + entry.InitializationErrorString());
  std::string nul = find_nul(entry);
  if (!nul.empty()) throw error("NUL in " + nul);
  at_ += size;
  return true;
}

std::string_view Reader::payload(uint64_t size) {
  if (size > remaining())
    throw error("says " + std::to_string(size) + " bytes follow, " + std::to_string(remaining()) +
                " are left");
  std::string_view bytes(bytes_.data() + at_, size);
  at_ += size;
  return bytes;
}

Error Reader::error(const std::string& cause) const { return bad_image(stem_, entry_, cause); }

ImageDir ImageDir::open(int dir, const Limits& limits) {
  ImageDir images;
  images.limits_ = limits;
  images.dir_ = kernel::open_in(dir, ".", O_RDONLY | O_DIRECTORY, beneath);
  // As long as we read nobody publishes another checkpoint there, or removes this
  // one; where another is being published it is waited for. A file system without
  // locks has to do without.
  while (kernel::call(SYS_flock, images.dir_.get(), LOCK_SH) == -EINTR) {
  }
  return images;
}

ImageDir ImageDir::of(std::map<std::string, std::string> images, const Limits& limits) {
  ImageDir result;
  result.limits_ = limits;
  result.memory_ = std::move(images);
  return result;
}

// Invalid when there is no such image.
UniqueFd ImageDir::open_file(const std::string& stem) const {
  if (stem.find('/') != std::string::npos)
    throw Error("read image", file_name(stem)).because("a name with a slash");
  if (!dir_) {
    auto found = memory_.find(stem);
    if (found == memory_.end()) return {};
    long fd = kernel::call(SYS_memfd_create, "image", MFD_CLOEXEC);
    UniqueFd file(static_cast<int>(kernel::must(fd, "read image", file_name(stem))));
    kernel::pwrite_all(file.get(), found->second.data(), found->second.size(), 0, stem);
    return file;
  }
  long fd = kernel::try_open_in(dir_.get(), file_name(stem), O_RDONLY | open_flags, beneath);
  if (fd == -ENOENT) return {};
  UniqueFd file(static_cast<int>(kernel::must(fd, "read image", file_name(stem))));
  if (!S_ISREG(kernel::stat_fd(file.get(), STATX_TYPE).stx_mode))
    throw Error("read image", file_name(stem)).because("not a regular file");
  return file;
}

bool ImageDir::has(const std::string& stem) const {
  return dir_ ? open_file(stem).valid() : memory_.count(stem) > 0;
}

UniqueFd ImageDir::raw(const std::string& stem) const {
  UniqueFd file = open_file(stem);
  if (!file) throw bad_image(stem, -1, "is missing");
  return file;
}

Reader ImageDir::read(const std::string& stem) const {
  auto found = memory_.find(stem);
  if (found != memory_.end()) return {stem, found->second, limits_};
  UniqueFd file = raw(stem);
  return {stem, kernel::read_all(file.get(), file_name(stem), limits_.image_bytes), limits_};
}

uint64_t ImageDir::size(const std::string& stem) const {
  auto found = memory_.find(stem);
  return found != memory_.end() ? found->second.size()
                                : kernel::stat_fd(raw(stem).get(), STATX_SIZE).stx_size;
}

}  // namespace stasis::image
