#include "engine/mounts/archive.h"

#include <archive.h>
#include <archive_entry.h>
#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <functional>
#include <set>
#include <sstream>

#include "base/error.h"
#include "engine/mounts/sandbox_test.h"
#include "kernel/fs.h"
#include "kernel/mount_api.h"

using namespace stasis;
using engine::Scratch;

namespace {

bool skip() {
  if (geteuid() == 0) return false;
  WARN("skipped: needs root");
  return true;
}

// A tmpfs that is attached nowhere.
UniqueFd make_tmpfs(const std::string& size = "64m") {
  kernel::FsContext context("tmpfs");
  context.set("size", size);
  context.create();
  return context.mount(0);
}

std::string at(const UniqueFd& root, const std::string& path) {
  return "/proc/self/fd/" + std::to_string(root.get()) + "/" + path;
}

void write_to(const std::string& path, const std::string& text) { std::ofstream(path) << text; }

std::string text_of(const std::string& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

// Everything of a tree that counts, one line a file.
std::vector<std::string> picture(const UniqueFd& root) {
  std::vector<std::string> result;
  std::string top = "/proc/self/fd/" + std::to_string(root.get()) + "/.";
  std::function<void(const std::string&)> look = [&](const std::string& path) {
    struct stat s{};
    REQUIRE(lstat((top + path).c_str(), &s) == 0);
    std::string line =
        fmt::format("{} {:o} {}:{} {} {}.{:09} links {} rdev {}", path, s.st_mode, s.st_uid,
                    s.st_gid, S_ISDIR(s.st_mode) ? 0 : s.st_size, s.st_mtim.tv_sec,
                    s.st_mtim.tv_nsec, S_ISDIR(s.st_mode) ? 0 : s.st_nlink, s.st_rdev);
    char names[1000], value[1000];
    auto size = llistxattr((top + path).c_str(), names, sizeof names);
    for (ssize_t i = 0; i < size; i += static_cast<ssize_t>(strlen(names + i) + 1)) {
      auto n = lgetxattr((top + path).c_str(), names + i, value, sizeof value);
      line += fmt::format(" {}={}", names + i, std::string(value, n > 0 ? n : 0));
    }
    if (S_ISLNK(s.st_mode)) line += " -> " + std::filesystem::read_symlink(top + path).string();
    if (S_ISREG(s.st_mode))
      line += fmt::format(" blocks {} hash {}", s.st_blocks,
                          std::hash<std::string>()(s.st_size < 1 << 24 ? text_of(top + path) : ""));
    result.push_back(line);
    if (!S_ISDIR(s.st_mode)) return;
    std::vector<std::string> entries;
    for (const auto& entry : std::filesystem::directory_iterator(top + path))
      entries.push_back(entry.path().filename());
    std::sort(entries.begin(), entries.end());
    for (const auto& entry : entries) look(fmt::format("{}/{}", path, entry));
  };
  look("");
  return result;
}

void fill(const UniqueFd& root) {
  auto make = [&](const std::string& path) { return at(root, path); };
  write_to(make("plain"), "some text");
  chmod(make("plain").c_str(), 04751);
  REQUIRE(lchown(make("plain").c_str(), 1000, 70000) == 0);
  chmod(make("plain").c_str(), 04751);
  write_to(make("empty"), "");
  std::filesystem::create_directories(make("deep/er/still"));
  write_to(make("deep/er/still/file"), std::string(300000, 'x') + "end");
  REQUIRE(link(make("plain").c_str(), make("deep/linked").c_str()) == 0);
  REQUIRE(symlink("../../etc/passwd", make("deep/out").c_str()) == 0);
  REQUIRE(mknod(make("null").c_str(), S_IFCHR | 0666, makedev(1, 3)) == 0);
  REQUIRE(mkfifo(make("fifo").c_str(), 0640) == 0);
  write_to(make("caf\xc3\xa9"), "utf-8");
  write_to(make("\xff\xfe bytes\n"), "no text at all");
  REQUIRE(link(make("caf\xc3\xa9").c_str(), make("deep/\xe9t\xe9").c_str()) == 0);
  REQUIRE(symlink("caf\xc3\xa9/\xff", make("deep/to").c_str()) == 0);
  write_to(make(std::string(200, 'n')), "long name");
  UniqueFd holes(::open(make("holes").c_str(), O_WRONLY | O_CREAT, 0600));
  REQUIRE(pwrite(holes.get(), "middle", 6, 5 << 20) == 6);
  REQUIRE(ftruncate(holes.get(), 12 << 20) == 0);
  UniqueFd hole(::open(make("hole").c_str(), O_WRONLY | O_CREAT, 0600));
  REQUIRE(ftruncate(hole.get(), 30 << 20) == 0);
  REQUIRE(lsetxattr(make("plain").c_str(), "trusted.mine", "a\0b", 3, 0) == 0);
  REQUIRE(lsetxattr(make("deep").c_str(), "trusted.dir", "value", 5, 0) == 0);
  chmod(make("deep").c_str(), 01777);
  timespec times[2] = {{1, 2}, {1234567890, 123456789}};
  utimensat(AT_FDCWD, make("plain").c_str(), times, 0);
  utimensat(AT_FDCWD, make("deep/out").c_str(), times, AT_SYMLINK_NOFOLLOW);
  utimensat(AT_FDCWD, make("deep").c_str(), times, 0);
  utimensat(AT_FDCWD, make("").c_str(), times, 0);
}

UniqueFd temp_file(const Scratch& dir, const std::string& name) {
  return UniqueFd(::open((dir.path() + "/" + name).c_str(), O_RDWR | O_CREAT, 0600));
}

}  // namespace

TEST_CASE("content is the same after packing and unpacking") {
  if (skip()) return;
  Scratch dir;
  auto from = make_tmpfs(), to = make_tmpfs();
  fill(from);
  sockaddr_un address{AF_UNIX, {}};
  auto socket_path = at(from, "socket");
  std::copy(socket_path.begin(), socket_path.end(), address.sun_path);
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM, 0));
  REQUIRE(::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  REQUIRE(chmod(at(from, "socket").c_str(), 0712) == 0);
  REQUIRE(chown(at(from, "socket").c_str(), 12, 34) == 0);
  timespec times[2] = {{1, 2}, {1234567890, 123456789}};
  utimensat(AT_FDCWD, at(from, "socket").c_str(), times, 0);
  // More than one attribute holds.
  for (int i = 0; i < 3000; i++)
    REQUIRE(mknod(at(from, fmt::format("deep/in = {:0100}", i)).c_str(), S_IFSOCK | 0600, 0) == 0);
  utimensat(AT_FDCWD, at(from, "deep").c_str(), times, 0);
  utimensat(AT_FDCWD, at(from, "").c_str(), times, 0);
  auto expected = picture(from);
  auto file = temp_file(dir, "content.tar.gz");
  engine::mounts::pack(from.get(), file.get(), {}, "/here");
  lseek(file.get(), 0, SEEK_SET);
  engine::mounts::unpack(file.get(), to.get(), "/there");
  auto got = picture(to);
  REQUIRE(got.size() == expected.size());
  for (size_t i = 0; i < got.size(); ++i) CHECK(got[i] == expected[i]);
}

TEST_CASE("GNU tar reads our archives, and we read its, the way CRIU runs it") {
  if (skip()) return;
  Scratch dir;
  auto from = make_tmpfs(), by_tar = make_tmpfs(), by_us = make_tmpfs();
  fill(from);
  lremovexattr(at(from, "plain").c_str(), "trusted.mine");
  lremovexattr(at(from, "deep").c_str(), "trusted.dir");
  auto expected = picture(from);
  auto file = temp_file(dir, "ours.tar.gz");
  engine::mounts::pack(from.get(), file.get(), {}, "/here");
  auto run = [](const std::string& command) { return std::system(command.c_str()); };
  auto path_of = [](int fd) { return fmt::format("/proc/{}/fd/{}", getpid(), fd); };
  REQUIRE(run(fmt::format(
              "tar --extract --gzip --no-unquote --no-wildcards --directory {} < {} 2>/dev/null",
              path_of(by_tar.get()), dir.path() + "/ours.tar.gz")) == 0);
  CHECK(picture(by_tar) == expected);
  REQUIRE(run(fmt::format("tar --create --gzip --no-unquote --no-wildcards --one-file-system "
                          "--check-links --preserve-permissions --sparse --numeric-owner "
                          "--directory {} . > {}",
                          path_of(from.get()), dir.path() + "/theirs.tar.gz")) == 0);
  auto theirs = temp_file(dir, "theirs.tar.gz");
  engine::mounts::unpack(theirs.get(), by_us.get(), "/there");
  // Its format has whole seconds.
  auto cut = [](std::vector<std::string> lines) {
    for (auto& line : lines) {
      auto dot = line.rfind('.', line.find(" links "));
      line.erase(dot, line.find(" links ") - dot);
    }
    return lines;
  };
  CHECK(cut(picture(by_us)) == cut(expected));
}

namespace {

struct Item {
  std::string path, link;
  mode_t type;
  bool hard = false;
};

// Files are empty.
UniqueFd archive_of(const Scratch& dir, const std::vector<Item>& items) {
  auto file = temp_file(dir, "made");
  REQUIRE(ftruncate(file.get(), 0) == 0);
  archive* a = archive_write_new();
  archive_write_set_format_pax(a);
  archive_write_add_filter_gzip(a);
  archive_write_open_fd(a, file.get());
  for (const auto& item : items) {
    archive_entry* entry = archive_entry_new();
    archive_entry_set_pathname(entry, item.path.c_str());
    archive_entry_set_filetype(entry, item.type);
    archive_entry_set_perm(entry, 0755);
    archive_entry_set_size(entry, 0);
    if (item.hard)
      archive_entry_set_hardlink(entry, item.link.c_str());
    else if (!item.link.empty())
      archive_entry_set_symlink(entry, item.link.c_str());
    archive_write_header(a, entry);
    archive_entry_free(entry);
  }
  archive_write_free(a);
  return file;
}

using Unpack = void (*)(int, int, const std::string&);

std::string outcome(Unpack unpack, const UniqueFd& file, const UniqueFd& root) {
  try {
    unpack(file.get(), root.get(), "/here");
    return "ok";
  } catch (const Error& error) {
    return error.what();
  }
}

}  // namespace

TEST_CASE("an archive cannot reach out of its tree") {
  if (skip()) return;
  Scratch dir;
  auto unpack = GENERATE(Unpack(engine::mounts::unpack), Unpack(engine::mounts::unpack_over));
  auto unpack_items = [&](const std::vector<Item>& items) {
    return outcome(unpack, archive_of(dir, items), make_tmpfs());
  };
  std::string victim = dir.path() + "/victim";
  CHECK(unpack_items({{"./a", "", AE_IFREG}}) == "ok");
  CHECK(unpack_items({{victim, "", AE_IFREG}}) != "ok");
  CHECK(unpack_items({{"../victim", "", AE_IFREG}}) != "ok");
  CHECK(unpack_items({{"a", "", AE_IFDIR}, {"a/../../victim", "", AE_IFREG}}) != "ok");
  CHECK(unpack_items({{"a", dir.path(), AE_IFLNK}, {"a/victim", "", AE_IFREG}}) != "ok");
  if (unpack == engine::mounts::unpack)
    CHECK(unpack_items({{"a", victim, AE_IFLNK}, {"a", "", AE_IFREG}}) != "ok");
  else
    CHECK(unpack_items({{"a", victim, AE_IFLNK}, {"a", "", AE_IFREG}}) == "ok");  // replaced
  CHECK(unpack_items({{"a", "/etc", AE_IFLNK}, {"b", "a/passwd", AE_IFREG, true}}) != "ok");
  CHECK(unpack_items({{"b", "/etc/passwd", AE_IFREG, true}}) != "ok");
  CHECK(unpack_items({{"b", "../../etc/passwd", AE_IFREG, true}}) != "ok");
  if (unpack == engine::mounts::unpack)
    CHECK(unpack_items({{"a", "", AE_IFREG}, {"a", "", AE_IFREG}}) != "ok");
  CHECK(!std::filesystem::exists(victim));
}

TEST_CASE("an archive over what is there is an image's layer") {
  if (skip()) return;
  Scratch dir;
  auto root = make_tmpfs();
  for (const char* path : {"kept/below", "gone/below", "emptied/below", "file-now/below"})
    std::filesystem::create_directories(at(root, path));
  for (const char* path : {"kept/file", "directory-now", "emptied/file", "outside"})
    write_to(at(root, path), "before");
  std::filesystem::create_symlink(dir.path(), at(root, "link"));
  auto unpack = [&](const std::vector<Item>& items) {
    return outcome(engine::mounts::unpack_over, archive_of(dir, items), root);
  };
  CHECK(unpack({{"kept", "", AE_IFDIR},
                {"file-now", "", AE_IFREG},
                {"directory-now", "", AE_IFDIR},
                {"directory-now/file", "", AE_IFREG},
                {".wh.gone", "", AE_IFREG},
                {".wh.never-there", "", AE_IFREG},
                {"emptied/.wh..wh..opq", "", AE_IFREG},
                {"emptied/new", "", AE_IFREG},
                {"left/out/file", "", AE_IFREG},
                {".wh..wh.plnk", "", AE_IFDIR}}) == "ok");
  std::set<std::string> paths;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(at(root, "")))
    paths.insert(entry.path().lexically_relative(at(root, "")));
  CHECK(paths == std::set<std::string>{"kept", "kept/below", "kept/file", "file-now",
                                       "directory-now", "directory-now/file", "emptied",
                                       "emptied/new", "left", "left/out", "left/out/file", "link",
                                       "outside"});
  CHECK(text_of(at(root, "kept/file")) == "before");
  // What leads elsewhere is replaced itself, and nothing is reached through it.
  write_to(dir.path() + "/victim", "before");
  CHECK(unpack({{"link/victim", "", AE_IFREG}}) != "ok");
  CHECK(unpack({{"link/.wh.victim", "", AE_IFREG}}) != "ok");
  CHECK(unpack({{"link", "", AE_IFDIR}, {"link/victim", "", AE_IFREG}}) == "ok");
  CHECK(text_of(dir.path() + "/victim") == "before");
  CHECK(unpack({{"kept/.wh...", "", AE_IFREG}}) != "ok");
  CHECK(unpack({{"kept/.wh..", "", AE_IFREG}}) != "ok");
  CHECK(unpack({{"kept/.wh.", "", AE_IFREG}}) != "ok");
}

TEST_CASE("what is beneath a directory is removed, and nothing else") {
  if (skip()) return;
  Scratch dir;
  auto root = make_tmpfs();
  std::filesystem::create_directories(at(root, "a/b/c"));
  std::filesystem::create_symlink(dir.path(), at(root, "link"));
  std::filesystem::create_symlink(dir.path(), at(root, "a/b/link"));
  write_to(dir.path() + "/victim", "before");
  auto remove = [&](const std::string& path) {
    engine::mounts::remove_beneath(root.get(), path, "/here");
  };
  remove("a/never/there");
  remove("a/b");
  CHECK(std::filesystem::is_empty(at(root, "a")));
  for (const char* path : {"", ".", "a/..", "a/.", "../x", "link/victim"})
    CHECK_THROWS_AS(remove(path), Error);
  remove("link");
  CHECK_FALSE(std::filesystem::is_symlink(at(root, "link")));
  CHECK(text_of(dir.path() + "/victim") == "before");
}

TEST_CASE("a damaged archive is an error, and a full file system one, too") {
  if (skip()) return;
  Scratch dir;
  auto from = make_tmpfs();
  write_to(at(from, "large"), std::string(2 << 20, 'x'));
  auto file = temp_file(dir, "good");
  engine::mounts::pack(from.get(), file.get(), {}, "/here");
  auto small = make_tmpfs("1m");
  lseek(file.get(), 0, SEEK_SET);
  CHECK_THROWS_WITH(engine::mounts::unpack(file.get(), small.get(), "/there"),
                    Catch::Contains("No space left"));
  auto to = make_tmpfs();
  lseek(file.get(), 0, SEEK_SET);
  REQUIRE(pwrite(file.get(), "garbage", 7, 200) == 7);
  CHECK_THROWS_AS(engine::mounts::unpack(file.get(), to.get(), "/there"), Error);
  auto empty = temp_file(dir, "empty");
  CHECK_THROWS_AS(engine::mounts::unpack(empty.get(), to.get(), "/there"), Error);
}
