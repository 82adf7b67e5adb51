// UTS namespace: host name and domain name.
#pragma once

#include "ns.pb.h"

namespace stasis::engine::uts {

image::UtsnsEntry read();  // of the calling thread's namespace
void restore(const image::UtsnsEntry& names);

}  // namespace stasis::engine::uts
