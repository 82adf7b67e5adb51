// What a program may have asked the processor when it began, and relies on ever since:
// which instructions there are. stasis.img has their names, as /proc/cpuinfo tells them.
#pragma once

#include <set>
#include <string>
#include <string_view>

namespace stasis::image {
struct Checkpoint;
class ImageWriter;
}  // namespace stasis::image

namespace stasis::engine::processor {

// Of the first processor in such a text, the flags that stand for instructions.
std::set<std::string> instructions(std::string_view cpuinfo);

void dump(image::ImageWriter& writer);

// What the checkpoint's processor had and this one lacks, in one line for people;
// empty where there is none, or the image doesn't tell.
std::string missing(const image::Checkpoint& checkpoint);

}  // namespace stasis::engine::processor
