// The functions that a kernel offers in its vdso, and how the copy of another
// kernel's vdso leads to them.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace stasis::engine {

struct VdsoFunction {
  uint64_t offset = 0, size = 0;  // in the vdso
};

// By name ("__vdso_time"), from the bytes of a whole vdso, which nobody has
// checked. Empty where that is no ELF file with a symbol table.
std::map<std::string, VdsoFunction> vdso_functions(std::span<const uint8_t> vdso);

// Code for the place of a function of a foreign vdso: it goes on in this
// kernel's function of the same name, at address `ours` (0: there is none, so a
// system call does it). Empty: the function can't be replaced.
std::vector<uint8_t> detour(const std::string& name, uint64_t ours);

}  // namespace stasis::engine
