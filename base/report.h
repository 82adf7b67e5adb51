// An Error as a text, for a process of ours that has to tell another what went wrong.
#pragma once

#include <string>

#include "base/error.h"

namespace stasis {

std::string to_report(const Error& error);
Error from_report(const std::string& report);

}  // namespace stasis
