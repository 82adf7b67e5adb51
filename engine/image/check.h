// The checks behind load(): what an image says is compared with what can be and
// with the other images. Each throws Error naming image, entry and field.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>

#include "engine/image/checkpoint.h"

namespace stasis::image {

constexpr uint32_t pid_limit = 4 << 20;                  // the kernel's PID_MAX_LIMIT
constexpr uint64_t user_end = (1ull << 56) - page_size;  // of five-level page tables
constexpr uint64_t nsec_per_sec = 1'000'000'000;

// `entry` is the entry's number in the image, negative where there is but one.
template <typename... Args>
void expect(bool holds, std::string_view stem, int64_t entry, fmt::format_string<Args...> format,
            Args&&... args) {
  if (!holds) throw bad_image(stem, entry, fmt::format(format, std::forward<Args>(args)...));
}

inline std::string stem_of(std::string_view kind, uint64_t id) {
  return fmt::format("{}-{}", kind, id);
}

void check_inventory(const InventoryEntry& inventory);
// Before anything of the tasks is read: the tree tells which images to read.
void check_tree(const std::vector<PstreeEntry>& tree, const Limits& limits);
void check_task(const Checkpoint& image, const TaskImage& task);
void check_instructions(const Checkpoint& image);
void check_memory(const Checkpoint& image, const TaskImage& task);
// Entries ascending, within what `may_hold(start, end)` allows, content there.
void check_shared_memory(const Checkpoint& image);
void check_files(const Checkpoint& image);
void check_terminals(const Checkpoint& image);
void check_descriptors(const Checkpoint& image, const TaskImage& task);
void check_mounts(const std::string& stem, const std::vector<MntEntry>& mounts);
void check_mount_ids(const std::map<uint32_t, std::vector<MntEntry>>& tables);
void check_namespaces(const Checkpoint& image);
void check_ipc(const Checkpoint& image);
uint64_t segment_page_size(const IpcShmEntry& entry);  // huge or not
void check_confinement(const Checkpoint& image);       // cgroups, seccomp filters

// Of an absolute path: no "..", no empty string.
bool is_clean_path(std::string_view path);

}  // namespace stasis::image
