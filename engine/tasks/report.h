// What went wrong in a process of ours that acts elsewhere, as one message.
#pragma once

#include <string>

#include "base/error.h"

namespace stasis::engine {

std::string to_report(const Error& error);
Error from_report(const std::string& report);

}  // namespace stasis::engine
