#include "engine/image/image.h"

#include <dirent.h>
#include <sys/mman.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <set>

#include "base/scope_exit.h"
#include "fdinfo.pb.h"
#include "kernel/fs.h"
#include "pstree.pb.h"

using namespace stasis;
using namespace stasis::image;

namespace {

class Directory {
 public:
  Directory() : path_(mkdtemp(path_buffer_)), fd_(kernel::open(path_, O_RDONLY | O_DIRECTORY)) {}
  ~Directory() {
    for (const std::string& name : names()) unlinkat(fd_.get(), name.c_str(), 0);
    unlinkat(fd_.get(), ".stasis-partial", AT_REMOVEDIR);
    rmdir(path_.c_str());
  }
  int fd() const { return fd_.get(); }

  std::set<std::string> names() const {
    std::set<std::string> result;
    DIR* dir = fdopendir(kernel::open_at(fd(), ".", O_RDONLY | O_DIRECTORY).release());
    while (const dirent* entry = readdir(dir)) result.insert(entry->d_name);
    closedir(dir);
    result.erase(".");
    result.erase("..");
    return result;
  }

  void put(const std::string& name, std::string_view bytes) const {
    UniqueFd file = kernel::open_at(fd(), name, O_WRONLY | O_CREAT, 0600);
    kernel::write_all(file.get(), bytes, name);
  }

 private:
  char path_buffer_[32] = "/tmp/image-test-XXXXXX";
  std::string path_;
  UniqueFd fd_;
};

PstreeEntry process(uint32_t pid) {
  PstreeEntry entry;
  entry.set_pid(pid);
  entry.set_ppid(0);
  entry.set_pgid(pid);
  entry.set_sid(pid);
  return entry;
}

InventoryEntry inventory() {
  InventoryEntry entry;
  entry.set_img_version(image_version);
  return entry;
}

std::string why(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

std::string word(uint32_t value) { return {reinterpret_cast<const char*>(&value), sizeof value}; }

}  // namespace

TEST_CASE("what a writer publishes an ImageDir reads") {
  Directory directory;
  {
    ImageWriter writer(directory.fd());
    writer.append("pstree", process(1));
    writer.append("pstree", process(7));
    PipeDataEntry pipe;
    pipe.set_pipe_id(3);
    pipe.set_bytes(5);
    writer.append("pipes-data", pipe, "hello");
    writer.create_empty("fdinfo-2");
    kernel::write_all(writer.raw("pages-1"), std::string(4096, 'x'), "pages-1");
    kernel::write_all(writer.raw("tmpfs-dev-60.tar.gz"), "archive", "archive");
    CHECK(directory.names() == std::set<std::string>{".stasis-partial"});
    writer.publish(inventory());
  }
  CHECK(directory.names() == std::set<std::string>{"fdinfo-2.img", "inventory.img", "pages-1.img",
                                                   "pipes-data.img", "pstree.img",
                                                   "tmpfs-dev-60.tar.gz.img"});
  ImageDir images = ImageDir::open(directory.fd());
  auto tree = images.all<PstreeEntry>("pstree");
  REQUIRE(tree.size() == 2);
  CHECK(tree[1].pid() == 7);
  Reader reader = images.read("pipes-data");
  PipeDataEntry pipe;
  REQUIRE(reader.next(pipe));
  CHECK(reader.payload(pipe.bytes()) == "hello");
  CHECK_FALSE(reader.next(pipe));
  CHECK(images.one<InventoryEntry>("inventory").img_version() == image_version);
  CHECK(images.has("fdinfo-2"));
  CHECK(images.all<FdinfoEntry>("fdinfo-2").empty());
  CHECK_FALSE(images.has("fdinfo-3"));
  CHECK(images.all<FdinfoEntry>("fdinfo-3").empty());
  CHECK(images.size("pages-1") == 4096);
  CHECK(kernel::read_all(images.raw("tmpfs-dev-60.tar.gz").get(), "archive") == "archive");
}

TEST_CASE("framing is CRIU's to the byte") {
  Directory directory;
  ImageWriter writer(directory.fd());
  PstreeEntry entry = process(1);
  writer.append("pstree", entry);
  writer.publish(inventory());
  std::string message = entry.SerializeAsString();
  CHECK(kernel::read_file_at(directory.fd(), "pstree.img") ==
        word(0x54564319) + word(0x50273030) + word(static_cast<uint32_t>(message.size())) +
            message);
  CHECK(kernel::read_file_at(directory.fd(), "inventory.img") ==
        word(0x58313116) + word(2) + inventory().SerializeAsString());
}

TEST_CASE("a writer that does not publish leaves nothing, an older checkpoint stays") {
  Directory directory;
  {
    ImageWriter first(directory.fd());
    first.append("pstree", process(1));
    first.publish(inventory());
  }
  auto before = directory.names();
  {
    ImageWriter second(directory.fd());
    second.append("pstree", process(2));
    second.flush();
    second.raw("pages-1");
  }
  CHECK(directory.names() == before);
  CHECK(ImageDir::open(directory.fd()).one<PstreeEntry>("pstree").pid() == 1);
}

TEST_CASE("a second checkpoint in a directory replaces the first") {
  Directory directory;
  {
    ImageWriter first(directory.fd());
    first.append("pstree", process(1));
    first.create_empty("tty-info");
    first.publish(inventory());
  }
  directory.put("dump.log", "a log");
  {
    ImageWriter second(directory.fd(), true);
    second.append("pstree", process(2));
    second.publish(inventory());
  }
  CHECK(ImageDir::open(directory.fd()).one<PstreeEntry>("pstree").pid() == 2);
  CHECK(directory.names() == std::set<std::string>{"dump.log", "inventory.img", "pstree.img"});
}

TEST_CASE("what a killed dump left is cleared away") {
  Directory directory;
  REQUIRE(mkdirat(directory.fd(), ".stasis-partial", 0700) == 0);
  directory.put(".stasis-partial/pstree.img", "half");
  directory.put(".stasis-partial/core-17.img", "half");
  ImageWriter writer(directory.fd());
  writer.append("pstree", process(1));
  writer.publish(inventory());
  CHECK(directory.names() == std::set<std::string>{"inventory.img", "pstree.img"});
}

TEST_CASE("the staging directory is no way out") {
  Directory directory;
  REQUIRE(symlinkat("/tmp", directory.fd(), ".stasis-partial") == 0);
  ScopeExit cleanup([&] { unlinkat(directory.fd(), ".stasis-partial", 0); });
  CHECK_THROWS_AS(ImageWriter(directory.fd()), Error);
}

TEST_CASE("writing the same image twice or an unknown one is refused") {
  Directory directory;
  ImageWriter writer(directory.fd());
  writer.append("pstree", process(1));
  writer.flush();
  writer.append("pstree", process(2));
  CHECK(why([&] { writer.flush(); }) == "cannot write image pstree.img: written already");
  CHECK_THROWS_AS(writer.append("nonsense", process(1)), Error);
  CHECK_THROWS_AS(writer.append("fdinfo-2", FdinfoEntry()), Error);  // required fields missing
}

TEST_CASE("a damaged image is refused by name and entry") {
  auto damaged = [](const std::string& bytes) {
    ImageDir images = ImageDir::of({{"pstree", bytes}});
    return why([&] { images.all<PstreeEntry>("pstree"); });
  };
  std::string head = word(0x54564319) + word(0x50273030);
  std::string message = process(1).SerializeAsString();
  std::string entry = word(static_cast<uint32_t>(message.size())) + message;
  CHECK(damaged("") == "cannot read image pstree.img: ends inside a magic");
  CHECK(damaged(word(1) + word(2)) ==
        "cannot read image pstree.img: does not begin as an image does");
  CHECK(damaged(word(0x54564319) + word(0x56213732)) ==
        "cannot read image pstree.img: has the magic of another kind of image");
  CHECK(damaged(head) == "no error");
  CHECK(damaged(head + entry + "\x01") ==
        "cannot read image pstree.img: entry 1: ends inside a size");
  CHECK(damaged(head + entry + word(9)) ==
        "cannot read image pstree.img: entry 1: says it has 9 bytes, 0 are left");
  CHECK(damaged(head + word(2) + "\xff\xff") ==
        "cannot read image pstree.img: entry 0: is no PstreeEntry");
  CHECK(damaged(head + word(0)) ==
        "cannot read image pstree.img: entry 0: lacks pid, ppid, pgid, sid");
}

TEST_CASE("strings with a NUL inside are refused, deep ones too") {
  FileEntry file;
  file.set_type(REG);
  file.set_id(1);
  RegFileEntry& reg = *file.mutable_reg();
  reg.set_id(1);
  reg.set_flags(0);
  reg.set_pos(0);
  reg.set_name(std::string("/etc\0/shadow", 12));
  FownEntry& owner = *reg.mutable_fown();
  owner.set_uid(0);
  owner.set_euid(0);
  owner.set_signum(0);
  owner.set_pid_type(0);
  owner.set_pid(0);
  std::string message = file.SerializeAsString();
  ImageDir images =
      ImageDir::of({{"files", word(0x54564319) + word(0x56303138) +
                                  word(static_cast<uint32_t>(message.size())) + message}});
  CHECK(why([&] { images.all<FileEntry>("files"); }) ==
        "cannot read image files.img: entry 0: NUL in reg.name");
}

TEST_CASE("limits hold before anything is believed") {
  Directory directory;
  {
    ImageWriter writer(directory.fd());
    for (uint32_t pid = 1; pid <= 100; ++pid) writer.append("pstree", process(pid));
    writer.publish(inventory());
  }
  Limits few;
  few.entries = 99;
  CHECK(why([&] { ImageDir::open(directory.fd(), few).all<PstreeEntry>("pstree"); }) ==
        "cannot read image pstree.img: entry 99: more than 99 entries");
  Limits small;
  small.image_bytes = 100;
  CHECK_THROWS_AS(ImageDir::open(directory.fd(), small).all<PstreeEntry>("pstree"), Error);
}

TEST_CASE("an image that is a link, a pipe or a directory is not read") {
  Directory directory;
  REQUIRE(symlinkat("/etc/passwd", directory.fd(), "pstree.img") == 0);
  REQUIRE(mkfifoat(directory.fd(), "files.img", 0600) == 0);
  ImageDir images = ImageDir::open(directory.fd());
  CHECK_THROWS_AS(images.read("pstree"), Error);
  CHECK(why([&] { images.read("files"); }) == "cannot read image files.img: not a regular file");
  CHECK_THROWS_AS(images.read("../pstree"), Error);
}

TEST_CASE("kinds are found by stem") {
  CHECK(format_of("core-17")->name == "core");
  CHECK(format_of("pagemap-shmem-5")->name == "pagemap-shmem");
  CHECK(format_of("pagemap-5")->name == "pagemap");
  CHECK(format_of("ghost-file-1f")->name == "ghost-file");
  CHECK(format_of("stats-dump")->name == "stats");
  CHECK(format_of("pages-1") == nullptr);
  CHECK(is_raw("pages-1"));
  CHECK(is_raw("tmpfs-dev-60.tar.gz"));
  CHECK_FALSE(is_raw("core-1"));
}

TEST_CASE("page counts are written for every CRIU and read from every one") {
  PagemapEntry entry;
  entry.set_vaddr(0);
  set_page_count(entry, 7);
  CHECK(entry.compat_nr_pages() == 7);
  CHECK_FALSE(entry.has_nr_pages());
  CHECK(page_count(entry) == 7);
  set_page_count(entry, uint64_t{5} << 32);
  CHECK(entry.compat_nr_pages() == 0);
  CHECK(page_count(entry) == uint64_t{5} << 32);
}
