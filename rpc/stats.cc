#include "rpc/stats.h"

#include <fcntl.h>

#include <cstring>
#include <string>

#include "kernel/fs.h"
#include "stats.pb.h"

namespace stasis::rpc {
namespace {

constexpr uint32_t service_magic = 0x55105940;
constexpr uint32_t stats_magic = 0x57093306;

void put(std::string& out, uint32_t value) {
  char bytes[sizeof value];
  memcpy(bytes, &value, sizeof value);
  out.append(bytes, sizeof bytes);
}

void write_entry(int work_dir, const std::string& name, const image::StatsEntry& entry) {
  std::string body = entry.SerializeAsString(), text;
  put(text, service_magic);
  put(text, stats_magic);
  put(text, static_cast<uint32_t>(body.size()));
  text += body;
  UniqueFd file =
      kernel::open_at(work_dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_NOCTTY, 0600);
  kernel::write_all(file.get(), text, name);
}

}  // namespace

void write_stats(int work_dir, const engine::DumpResult& result) {
  image::StatsEntry entry;
  image::DumpStatsEntry& dump = *entry.mutable_dump();
  dump.set_freezing_time(result.freezing_us);
  dump.set_frozen_time(result.frozen_us);
  dump.set_memdump_time(result.memory_us);
  dump.set_memwrite_time(result.write_us);
  dump.set_irmap_resolve(0);
  dump.set_pages_scanned(result.pages_scanned);
  dump.set_pages_skipped_parent(result.pages_skipped_parent);
  dump.set_pages_written(result.pages_written);
  dump.set_pages_lazy(0);
  dump.set_shpages_written(result.shared_pages_written);
  write_entry(work_dir, "stats-dump", entry);
}

void write_stats(int work_dir, const engine::RestoreResult& result) {
  image::StatsEntry entry;
  image::RestoreStatsEntry& restore = *entry.mutable_restore();
  restore.set_pages_compared(0);
  restore.set_pages_skipped_cow(0);
  restore.set_forking_time(result.forking_us);
  restore.set_restore_time(result.restore_us);
  restore.set_pages_restored(result.pages_restored);
  write_entry(work_dir, "stats-restore", entry);
}

}  // namespace stasis::rpc
