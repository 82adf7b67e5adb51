// Names for what no kind can write down.
#pragma once

#include "engine/files/file_kind.h"

namespace stasis::engine::files {

Objection unsupported(const Probe& probe);

}  // namespace stasis::engine::files
