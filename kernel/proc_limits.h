// /proc/PID/limits: readable where prlimit() needs CAP_SYS_RESOURCE.
#pragma once

#include <sys/resource.h>

#include <array>
#include <cstdint>
#include <string_view>

namespace stasis::kernel {

struct ResourceLimit {
  uint64_t soft = 0, hard = 0;  // "unlimited" is RLIM_INFINITY
  bool operator==(const ResourceLimit&) const = default;
};

// Indexed by RLIMIT_CPU ... RLIMIT_RTTIME.
using ResourceLimits = std::array<ResourceLimit, RLIM_NLIMITS>;

ResourceLimits parse_limits(std::string_view text);

}  // namespace stasis::kernel
