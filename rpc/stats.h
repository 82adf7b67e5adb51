// stats-dump and stats-restore: what an operation cost, for the callers.
#pragma once

#include "engine/plan.h"

namespace stasis::rpc {

void write_stats(int work_dir, const engine::DumpResult& result);
void write_stats(int work_dir, const engine::RestoreResult& result);

}  // namespace stasis::rpc
