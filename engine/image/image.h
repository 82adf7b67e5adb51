// Image files: the only code that reads or writes them. Framing: magics, then
// entries of a u32 size and a protobuf message, some followed by raw bytes.
#pragma once

#include <google/protobuf/message.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"
#include "engine/image/format.h"
#include "inventory.pb.h"

namespace stasis::image {

// Writes a checkpoint. Everything goes into a hidden directory inside `dir`
// first; publish() moves it into place, inventory.img last, so `dir` never
// holds half a checkpoint and an older one stays whole until then.
class ImageWriter {
 public:
  // `dir` is borrowed. With `durable` publish() returns after all is on disk.
  explicit ImageWriter(int dir, bool durable = false);
  ImageWriter(const ImageWriter&) = delete;
  ImageWriter& operator=(const ImageWriter&) = delete;
  ~ImageWriter();  // unpublished: removes all that it created

  // Adds an entry to STEM.img, kept in memory until flush().
  void append(const std::string& stem, const google::protobuf::Message& entry,
              std::string_view payload = {});
  void create_empty(const std::string& stem);  // magics only
  // Creates STEM.img without framing; open for reading and writing, owned here.
  int raw(const std::string& stem);

  void flush();
  void publish(const InventoryEntry& inventory);

 private:
  int create(const std::string& stem);
  std::string& buffer(const std::string& stem);
  void remove_previous();

  int dir_;
  bool durable_;
  UniqueFd staging_;
  bool published_ = false;
  std::map<std::string, std::string> buffers_;  // not written yet, by stem
  std::map<std::string, UniqueFd> files_;       // created, by stem
  std::vector<std::string> moved_;              // already in `dir`
};

// Upper bounds for what is believed of an image before anything is allocated.
struct Limits {
  uint64_t image_bytes = 256 << 20;  // of one framed image; pages are not counted
  uint32_t entries = 4 << 20;        // of one image
  uint32_t tasks = 65536;
};

// The entries of one framed image, in order. Errors name file and entry.
class Reader {
 public:
  Reader(std::string stem, std::string bytes, const Limits& limits);

  bool next(google::protobuf::Message& entry);  // false at the end
  std::string_view payload(uint64_t size);      // the next raw bytes
  uint64_t remaining() const { return bytes_.size() - at_; }
  const std::string& stem() const { return stem_; }
  Error error(const std::string& cause) const;  // about the entry read last

 private:
  uint32_t word(const char* what);

  std::string stem_, bytes_;
  Limits limits_;
  size_t at_ = 0;
  int64_t entry_ = -1;  // number of the entry read last
};

// "read image STEM.img: entry N: CAUSE"; a negative entry is not named.
Error bad_image(std::string_view stem, int64_t entry, const std::string& cause);

// A directory of images; each is read whole when asked for.
class ImageDir {
 public:
  ImageDir() = default;
  static ImageDir open(int dir, const Limits& limits = {});  // `dir` is duplicated
  // Images that lie in memory, by stem: for tests and fuzzing.
  static ImageDir of(std::map<std::string, std::string> images, const Limits& limits = {});

  bool has(const std::string& stem) const;
  Reader read(const std::string& stem) const;  // throws when there is no such image
  UniqueFd raw(const std::string& stem) const;
  uint64_t size(const std::string& stem) const;  // bytes of the file

  // An image of exactly one entry.
  template <typename M>
  M one(const std::string& stem) const {
    Reader reader = read(stem);
    M entry, more;
    if (!reader.next(entry)) throw bad_image(stem, -1, "has no entry");
    if (reader.next(more)) throw reader.error("one entry too many");
    return entry;
  }
  template <typename M>
  std::optional<M> maybe_one(const std::string& stem) const {
    if (!has(stem)) return std::nullopt;
    return one<M>(stem);
  }
  // All entries; none when the image is missing, as CRIU leaves empty ones out.
  template <typename M>
  std::vector<M> all(const std::string& stem) const {
    std::vector<M> entries;
    if (!has(stem)) return entries;
    Reader reader = read(stem);
    for (M entry; reader.next(entry);) entries.push_back(std::move(entry));
    return entries;
  }

  const Limits& limits() const { return limits_; }

 private:
  UniqueFd open_file(const std::string& stem) const;

  UniqueFd dir_;
  std::map<std::string, std::string> memory_;
  Limits limits_;
};

}  // namespace stasis::image
