// Netlink messages: written by Message, sent and answered through Netlink.
#pragma once

#include <linux/netlink.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/unique_fd.h"

namespace stasis::kernel {

template <typename T>
std::string_view bytes_of(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

// The value at the beginning of `bytes`; throws where they are too few.
template <typename T>
T value_of(std::string_view bytes) {
  T value{};
  if (bytes.size() < sizeof value)
    throw Error("read", "a netlink message").because("it is too short");
  memcpy(&value, bytes.data(), sizeof value);
  return value;
}

// Several messages behind one another; lengths are filled in as it goes.
class Messages {
 public:
  void begin(uint16_t type, uint16_t flags, std::string_view head);
  void attribute(uint16_t type, std::string_view value);
  void text(uint16_t type, std::string_view value);  // with the zero at its end
  void big_endian(uint16_t type, uint32_t value);
  // Attributes within an attribute, behind a head where they have one.
  void nest(uint16_t type, const std::function<void()>& content) { nest(type, {}, content); }
  void nest(uint16_t type, std::string_view head, const std::function<void()>& content);
  // The last message begun is to be acknowledged.
  void acknowledge();

  const std::string& bytes() const { return bytes_; }
  uint32_t last() const { return sequence_; }

 private:
  void grow_message();

  std::string bytes_;
  size_t message_ = 0;
  uint32_t sequence_ = 0;
};

class Netlink {
 public:
  // In the network namespace that the calling thread is in.
  explicit Netlink(int protocol);

  // Sends them, and takes answers until the one to message `last` is there,
  // which must have asked for one. Throws Error(operation, subject) for the
  // first that says no; try_send() returns its -errno instead.
  void send(const Messages& messages, uint32_t last, std::string_view operation,
            std::string_view subject);
  long try_send(const Messages& messages, uint32_t last, std::string_view operation,
                std::string_view subject);
  // Calls `take` for each message of the list that `request` asks for.
  void list(const Messages& request, std::string_view operation, std::string_view subject,
            const std::function<void(const nlmsghdr& header, std::string_view body)>& take);

 private:
  std::string receive(std::string_view operation, std::string_view subject);

  UniqueFd socket_;
};

// Calls `take` for each attribute in `bytes`.
void each_attribute(std::string_view bytes,
                    const std::function<void(uint16_t type, std::string_view value)>& take);

}  // namespace stasis::kernel
