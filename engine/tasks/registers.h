// General and FPU registers: between what ptrace shows and CoreEntry.
#pragma once

#include <cstdint>
#include <vector>

#include "core.pb.h"
#include "engine/remote/tracee.h"

namespace stasis::engine {

// What takes a while the first time, for before the freeze.
void prepare_registers();

// `registers` as they were at the stop: an interrupted system call is written
// as one that will be started again, as CRIU's images have it.
void store_registers(const Registers& registers, const std::vector<uint8_t>& xstate,
                     image::ThreadInfoX86* info);

// Registers to set in a fresh task whose own are `fresh` (segment selectors
// are taken from there).
Registers load_registers(const image::ThreadInfoX86& info, const Registers& fresh);

// An XSAVE area for this processor, `size` bytes as PTRACE_GETREGSET gave for
// the fresh task. Throws when the image holds state that this processor lacks.
std::vector<uint8_t> load_xstate(const image::ThreadInfoX86& info,
                                 const std::vector<uint8_t>& fresh);

}  // namespace stasis::engine
