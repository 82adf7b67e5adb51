// config.json, the state on a hook's stdin and runc's state.json: whatever the
// text, a value or an Error.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "oci/config.h"
#include "oci/state.h"

namespace {

template <typename Parse>
void survive(Parse parse) {
  try {
    parse();
  } catch (const stasis::Error&) {
    return;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  survive([&] {
    auto config = stasis::oci::parse_config(text, "/bundle");
    for (const auto& mount : config.mounts)
      if (!mount.destination.starts_with('/')) __builtin_trap();
  });
  survive([&] {
    auto state = stasis::oci::parse_state(text);
    if (state.id.find('/') != state.id.npos || state.pid < 0) __builtin_trap();
  });
  survive([&] { stasis::oci::parse_runc_state(text); });
  return 0;
}
