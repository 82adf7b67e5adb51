#include "plugins/aufs.h"

#include <fmt/core.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/text.h"
#include "kernel/fs.h"
#include "kernel/mount_api.h"
#include "mountmap/paths.h"

namespace stasis::plugins {

namespace {

constexpr size_t most_branches = 999;  // of aufs' own numbering: three digits

// The members of a directory of a superblock: br0, brid0, xi_path ..
std::vector<int> branch_numbers(const std::string& directory) {
  std::vector<int> numbers;
  for (const std::string& name : kernel::entries(directory))
    if (name.starts_with("br"))
      if (auto number = text::to_int<int>(std::string_view(name).substr(2)))
        numbers.push_back(*number);
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

// "si=HEX" goes into `stack`, as do branches where aufs was told not to name
// them in sysfs (its module parameter brs=0); all else are the mount's own.
void read_options(const mountmap::Mount& mount, AufsStack& stack) {
  for (std::string_view option : text::split(mount.sb_options, ',')) {
    if (option.starts_with("si=")) {
      stack.si = option.substr(3);
    } else if (option.starts_with("br:") || option.starts_with("br=")) {
      for (std::string_view branch : text::split(option.substr(3), ':'))
        stack.branches.push_back(parse_branch(branch));
    } else if (!option.empty()) {
      stack.options += (stack.options.empty() ? "" : ",") + std::string(option);
    }
  }
  bool hexadecimal = std::all_of(stack.si.begin(), stack.si.end(),
                                 [](unsigned char c) { return std::isxdigit(c); });
  if (stack.si.empty() || !hexadecimal)
    throw Error("read the branches of the mount", mount.mountpoint)
        .because("its options name no superblock (si=): " + mount.sb_options);
}

bool exists(const std::string& path) {
  long result = kernel::call(SYS_faccessat2, AT_FDCWD, path.c_str(), F_OK, AT_SYMLINK_NOFOLLOW);
  return result >= 0 || (result != -ENOENT && result != -ENOTDIR);
}

// Whether a branch above has `relative` itself or says that it is gone.
bool hides(const AufsBranch& branch, const std::string& relative) {
  if (exists(branch.path + "/" + relative)) return true;
  for (size_t start = 0;;) {
    size_t end = relative.find('/', start);
    std::string directory = fmt::format("{}/{}", branch.path, relative.substr(0, start));
    std::string name = relative.substr(start, end - start);
    directory += ".wh.";
    if (exists(directory + name) || exists(directory + ".wh..opq")) return true;
    if (end == relative.npos) return false;
    start = end + 1;
  }
}

Error bad_description() {
  return Error("mount aufs", "").because("the image's description of it isn't understood");
}

}  // namespace

AufsBranch parse_branch(std::string_view line) {
  size_t equals = line.rfind('=');
  if (equals == line.npos || !line.starts_with('/'))
    throw Error("read a branch of aufs", std::string(line)).because("expected PATH=PERMISSIONS");
  return {text::unescape(line.substr(0, equals)), std::string(line.substr(equals + 1))};
}

AufsStack read_stack(const mountmap::Mount& mount, const std::string& sysfs) {
  AufsStack stack;
  read_options(mount, stack);
  if (!stack.branches.empty()) return stack;
  std::string directory = sysfs + "/fs/aufs/si_" + stack.si;
  auto numbers = branch_numbers(directory);
  Error error = Error("read the branches of the mount", mount.mountpoint);
  if (numbers.empty()) throw error.because("there are none in " + directory);
  if (numbers.size() > most_branches)
    throw error.because(fmt::format("there are {}, more than {}", numbers.size(), most_branches));
  if (numbers.back() != static_cast<int>(numbers.size()) - 1)
    throw error.because("a branch is being added or removed").hint("Try again.");
  for (int number : numbers) {
    std::string text = kernel::read_file(fmt::format("{}/br{}", directory, number), 1 << 16);
    stack.branches.push_back(parse_branch(std::string_view(text).substr(0, text.find('\n'))));
  }
  return stack;
}

std::optional<mountmap::MappedFile> find_inside(const AufsStack& stack, const std::string& link) {
  // A branch may lie within another: the longest path is the nearest.
  const AufsBranch* best = nullptr;
  for (const AufsBranch& branch : stack.branches)
    if (link != branch.path && mountmap::inside(link, branch.path) &&
        (!best || branch.path.size() > best->path.size()))
      best = &branch;
  if (!best) return std::nullopt;
  mountmap::MappedFile file{.path = mountmap::rebase(link, best->path, "/")};
  for (const AufsBranch& above : stack.branches) {
    if (&above == best) break;
    if (hides(above, file.path.substr(1))) file.current = false;
  }
  return file;
}

std::string docker_root(const AufsStack& stack) {
  if (stack.branches.empty()) return {};
  const std::string& top = stack.branches.front().path;
  constexpr std::string_view diff = "/diff/";
  size_t at = top.rfind(diff);
  if (at == top.npos || top.find('/', at + diff.size()) != top.npos) return {};
  return top.substr(0, at) + "/mnt/" + top.substr(at + diff.size());
}

std::vector<std::string> mount_data(const AufsStack& stack, size_t page) {
  std::vector<std::string> data{"br"};
  std::string options = stack.options.empty() ? "" : "," + stack.options;
  bool full = false;
  for (const AufsBranch& branch : stack.branches) {
    std::string word = branch.path + "=" + branch.permissions;
    if (word.find_first_of(",:") != word.npos)
      throw Error("mount aufs with the branch", branch.path)
          .because("a comma or colon in a path can't be told to aufs");
    // The kernel takes one page, its last byte a NUL.
    full |= data[0].size() + 1 + word.size() + options.size() >= page;
    if (full && data[0].size() > 2)
      data.push_back("append:" + word);
    else
      data[0] += ":" + word;
  }
  data[0] += options;
  return data;
}

std::string Aufs::describe(const mountmap::Mount& mount) const {
  AufsStack stack = read_stack(mount, sysfs_);
  std::string description = stack.si + "\n" + text::escape(stack.options) + "\n";
  for (const AufsBranch& branch : stack.branches)
    description += text::escape(branch.path) + "=" + branch.permissions + "\n";
  return description;
}

AufsStack Aufs::parse(const std::string& description) {
  AufsStack stack;
  std::string_view rest = description;
  stack.si = text::next(rest, '\n');
  stack.options = text::unescape(text::next(rest, '\n'));
  while (!rest.empty()) stack.branches.push_back(parse_branch(text::next(rest, '\n')));
  if (stack.branches.empty() || stack.branches.size() > most_branches) throw bad_description();
  return stack;
}

// Tools read the branches from the log by this form.
std::vector<std::string> Aufs::explain(const std::string& description) const {
  std::vector<std::string> lines;
  AufsStack stack = parse(description);
  lines.reserve(stack.branches.size());
  for (const AufsBranch& branch : stack.branches)
    lines.push_back(
        fmt::format("/sys/fs/aufs/si_{}/br{} : {}", stack.si, lines.size(), branch.path));
  return lines;
}

UniqueFd Aufs::make(const std::string& description) const {
  auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return kernel::mount_by_data("aufs", "none", mount_data(parse(description), page));
}

}  // namespace stasis::plugins
