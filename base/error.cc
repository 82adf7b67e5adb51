#include "base/error.h"

#include <cstring>
#include <utility>

namespace stasis {

Error::Error(std::string operation, std::string subject)
    : operation_(std::move(operation)), subject_(std::move(subject)) {
  compose();
}

Error& Error::with_errno(int code) & {
  code_ = code;
  compose();
  return *this;
}

Error& Error::because(std::string cause) & {
  cause_ = std::move(cause);
  compose();
  return *this;
}

Error& Error::hint(std::string remedy) & {
  hint_ = std::move(remedy);
  return *this;
}

Error&& Error::with_errno(int code) && { return std::move(with_errno(code)); }
Error&& Error::because(std::string cause) && { return std::move(because(std::move(cause))); }
Error&& Error::hint(std::string remedy) && { return std::move(hint(std::move(remedy))); }

void Error::compose() {
  text_ = "cannot " + operation_;
  if (!subject_.empty()) text_ += " " + subject_;
  if (!cause_.empty()) text_ += ": " + cause_;
  if (code_ != 0) text_ += std::string(": ") + strerrordesc_np(code_);
}

}  // namespace stasis
