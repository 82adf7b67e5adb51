// The image reader on arbitrary bytes. An input is a whole checkpoint: parts
// that each begin with a line "STEM SIZE" and go on with SIZE bytes; of a raw
// image (pages) only the size counts, and no bytes follow.
#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/text.h"
#include "cli/image_view.h"
#include "engine/image/checkpoint.h"

using namespace stasis;

namespace {

constexpr size_t raw_limit = 1 << 20;

std::map<std::string, std::string> unpack(std::string_view input) {
  std::map<std::string, std::string> images;
  while (!input.empty()) {
    std::string_view line = text::next(input, '\n');
    std::string stem(text::next(line, ' '));
    size_t size = text::to_int<size_t>(line).value_or(0);
    if (image::is_raw(stem)) {
      images[stem].resize(std::min(size, raw_limit));
    } else {
      size = std::min(size, input.size());
      images[stem] = input.substr(0, size);
      input.remove_prefix(size);
    }
  }
  return images;
}

std::string pack(const std::map<std::string, std::string>& images) {
  std::string result;
  for (const auto& [stem, bytes] : images) {
    result += stem + ' ' + std::to_string(bytes.size()) + '\n';
    if (!image::is_raw(stem)) result += bytes;
  }
  return result;
}

}  // namespace

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

// Changes one image and keeps the others whole, so that loading gets far.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  auto images = unpack({reinterpret_cast<const char*>(data), size});
  if (images.empty()) return LLVMFuzzerMutate(data, size, max_size);
  auto chosen = std::next(images.begin(), static_cast<long>(seed % images.size()));
  std::string& bytes = chosen->second;
  std::vector<uint8_t> changed(bytes.begin(), bytes.end());
  changed.resize(bytes.size() + 64);
  changed.resize(LLVMFuzzerMutate(changed.data(), bytes.size(), changed.size()));
  bytes.assign(changed.begin(), changed.end());
  std::string result = pack(images);
  if (result.size() > max_size) return LLVMFuzzerMutate(data, size, max_size);
  std::copy(result.begin(), result.end(), data);
  return result.size();
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  auto images = unpack({reinterpret_cast<const char*>(data), size});
  if (images.empty()) return 0;
  auto shown = std::next(images.begin(), static_cast<long>(size % images.size()));
  image::to_text(shown->first, shown->second);
  try {
    cli::view(image::survey(image::ImageDir::of(images)).image);
    image::load(image::ImageDir::of(std::move(images)));
  } catch (const Error&) {  // refused, as most should be
  }
  return 0;
}
