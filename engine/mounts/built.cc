#include "engine/mounts/built.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/text.h"
#include "kernel/fs.h"

namespace stasis::engine::mounts {

// "hidden ID FD", "space ID FD FD" and "pty INDEX FD DEVICE", a line each.
std::string to_text(Built built) {
  std::string text;
  for (auto& [file, fd] : built.hidden) text += fmt::format("hidden {} {}\n", file, fd.release());
  for (auto& [id, space] : built.spaces)
    text += fmt::format("space {} {} {}\n", id, space.ns.release(), space.root.release());
  for (auto& [id, master] : built.ptys)
    text += fmt::format("pty {} {} {}\n", id.second, master.release(), id.first);
  return text;
}

namespace {

template <typename Int>
Int number(std::string_view word) {
  auto value = text::to_int<Int>(word);
  if (!value) throw Error("understand", "what the root task tells").because(std::string(word));
  return *value;
}

}  // namespace

Built take_over(pid_t pid, std::string_view told) {
  Built built;
  UniqueFd pidfd = kernel::pidfd_open(pid);
  for (std::string_view line : text::split(told, '\n')) {
    if (line.empty()) continue;
    auto words = text::words(line);
    auto id = number<uint32_t>(words[1]);
    auto take = [&](size_t word) {
      return kernel::pidfd_getfd(pidfd.get(), number<int>(words[word]));
    };
    if (words[0] == "hidden")
      built.hidden[id] = take(2);
    else if (words[0] == "pty")
      built.ptys[{number<uint64_t>(words[3]), id}] = take(2);
    else
      built.spaces[id] = {take(2), take(3)};
  }
  return built;
}

}  // namespace stasis::engine::mounts
