// What a seccomp filter decides, whatever its program looks like.
#pragma once

#include <string_view>

namespace stasis::engine {

// Whether two filters (classic BPF) decide the same for every system call. Their
// programs may differ: libseccomp orders rules as its caller adds them, and runc's
// come from a map, in another order each time.
bool same_rules(std::string_view a, std::string_view b);

}  // namespace stasis::engine
