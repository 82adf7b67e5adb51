// `stasis check`: what the kernel offers, what is missing and what that costs.
#pragma once

#include <cstdio>

namespace stasis::cli {

// Exit code: 0 when nothing required is missing.
int check(bool json, FILE* out);

}  // namespace stasis::cli
