// The one exception of stasis. It carries what a person needs to act: what was
// tried, on what, the errno, why it matters and what to do about it. Wrappers
// throw it, doors (cli, rpc, hook) catch it, destructors undo in between.
#pragma once

#include <exception>
#include <string>
#include <string_view>

namespace stasis {

class Error : public std::exception {
 public:
  // operation: a verb phrase that completes "cannot ..." ("open", "freeze the
  // container"). subject: the thing it was tried on; may be empty.
  Error(std::string operation, std::string subject);

  Error& with_errno(int code) &;
  Error&& with_errno(int code) &&;
  Error& because(std::string cause) &;
  Error&& because(std::string cause) &&;
  Error& hint(std::string remedy) &;
  Error&& hint(std::string remedy) &&;

  const std::string& operation() const { return operation_; }
  const std::string& subject() const { return subject_; }
  int code() const { return code_; }  // an errno value, 0 when none
  const std::string& cause() const { return cause_; }
  const std::string& remedy() const { return hint_; }

  // One line without the hint: "cannot OPERATION SUBJECT: CAUSE: strerror".
  const char* what() const noexcept override { return text_.c_str(); }

 private:
  void compose();

  std::string operation_, subject_, cause_, hint_, text_;
  int code_ = 0;
};

}  // namespace stasis
