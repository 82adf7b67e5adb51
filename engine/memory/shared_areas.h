// Shared anonymous memory of a checkpoint, which several tasks may map.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "base/unique_fd.h"
#include "engine/image/checkpoint.h"
#include "engine/memory/pages.h"

namespace stasis::engine {

class SharedAreas {
 public:
  // What they hold is added to `copier`, to be filled while this object lives.
  SharedAreas(const image::Checkpoint& checkpoint, PageCopier& copier)
      : checkpoint_(checkpoint), copier_(copier) {}
  ~SharedAreas();

  // The area that the VMA maps, if it maps one.
  std::optional<uint64_t> id_of(const image::VmaEntry& vma) const;
  // A descriptor (borrowed) that tasks can map; made on first use.
  int get(uint64_t id);

 private:
  std::pair<uint64_t, uint32_t> size_of(uint64_t id) const;

  const image::Checkpoint& checkpoint_;
  PageCopier& copier_;
  std::map<uint64_t, UniqueFd> areas_;
  std::vector<std::pair<uint64_t, uint64_t>> huge_;  // mapped by us: address and size
  std::vector<UniqueFd> pages_;                      // page images, until they are read
};

}  // namespace stasis::engine
