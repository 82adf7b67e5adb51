// Facts of CRIU's image format: how a file begins, what it holds, and the bits
// of its numeric fields. A stem is an image's name without ".img" ("core-1").
#pragma once

#include <google/protobuf/message.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "fdinfo.pb.h"
#include "mm.pb.h"

namespace stasis::image {

constexpr uint64_t page_size = 4096;
constexpr uint32_t image_version = 2;           // with the common magic in front
constexpr uint32_t common_magic = 0x54564319;   // all images but the inventory
constexpr uint32_t service_magic = 0x55105940;  // stats
constexpr uint32_t inventory_magic = 0x58313116;
constexpr uint32_t no_cgroup_set = 0;

// TaskCoreEntry.task_state
enum TaskState : uint32_t { task_alive = 1, task_dead = 2, task_stopped = 3 };

// VmaEntry.status
enum VmaStatus : uint32_t {
  vma_regular = 1u << 0,  // has content that belongs to the task
  vma_stack = 1u << 1,
  vma_vsyscall = 1u << 2,
  vma_vdso = 1u << 3,
  vma_heap = 1u << 5,
  vma_file_private = 1u << 6,
  vma_file_shared = 1u << 7,
  vma_anon_shared = 1u << 8,
  vma_anon_private = 1u << 9,
  vma_sysvipc = 1u << 10,
  vma_socket = 1u << 11,
  vma_vvar = 1u << 12,
  vma_aioring = 1u << 13,
  vma_memfd = 1u << 14,
  vma_shadow_stack = 1u << 15,
  vma_guard = 1u << 16,  // not a mapping: a guarded range inside others, listed last
  vma_uprobes = 1u << 17,
};

// FileLockEntry.flag: its kind; and of its type, beside F_RDLCK and the like.
enum LockKind : uint32_t { lock_posix = 1, lock_flock = 2, lock_ofd = 4, lock_lease = 8 };
constexpr uint32_t lease_breaking = 4;

// PagemapEntry.flags
enum PagemapFlag : uint32_t {
  page_in_parent = 1u << 0,
  page_lazy = 1u << 1,
  page_present = 1u << 2,
};

// Where the count of a pagemap entry stands depends on who wrote it. We write
// it so that every CRIU reads it, as long as it fits 32 bits.
uint64_t page_count(const PagemapEntry& entry);
void set_page_count(PagemapEntry& entry, uint64_t pages);
bool is_present(const PagemapEntry& entry);  // its pages lie in the pages image

// What a kind of image holds. Raw ones (pages, archives) have no Format.
struct Format {
  std::string_view name;  // the stem without its "-ID"
  uint32_t magic;
  const google::protobuf::Message* (*entry)();           // default instance
  const google::protobuf::Message* (*head)() = nullptr;  // of a different first entry
  // Raw bytes behind an entry.
  uint64_t (*payload)(const google::protobuf::Message&) = nullptr;
};
const Format* format_of(std::string_view stem);
bool is_raw(std::string_view stem);  // a known kind without framing

// The member of `file` that its type asks for, or null; `id` and `flags` of it.
const google::protobuf::Message* file_details(const FileEntry& file);

// The whole image for people to read; never throws on odd content, says it.
std::string to_text(std::string_view stem, std::string_view bytes);

}  // namespace stasis::image
