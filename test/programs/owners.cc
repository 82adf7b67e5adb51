// owners: files of many owners in a tmpfs, deleted ones too, pipes, a thread and a process of
// another user that talks with this one. For containers with a user namespace: the ids inside have
// to come back, not those outside.
#include <grp.h>
#include <linux/capability.h>
#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>
#include <signal.h>
#include <sys/xattr.h>

#include <atomic>
#include <thread>

#include "program.h"

using namespace program;

namespace {

constexpr int get_owner_uids = 17;  // F_GETOWNER_UIDS

int make(const char* path, uid_t uid, gid_t gid, mode_t mode) {
  int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
  need(fd >= 0 && write(fd, path, strlen(path)) > 0, path);
  need(fchown(fd, uid, gid) == 0 && fchmod(fd, mode) == 0, "chown");
  return fd;
}

void has_owner(Verdict& verdict, const char* what, const struct stat& s, uid_t uid, gid_t gid) {
  verdict.expect(s.st_uid == uid && s.st_gid == gid, "%s belongs to %u:%u instead of %u:%u", what,
                 s.st_uid, s.st_gid, uid, gid);
}

void owned(Verdict& verdict, int fd, const char* what, uid_t uid, gid_t gid) {
  struct stat s{};
  verdict.expect(fstat(fd, &s) == 0, "fstat of %s: %s", what, strerror(errno));
  has_owner(verdict, what, s, uid, gid);
}

struct AccessList {
  posix_acl_xattr_header header{POSIX_ACL_XATTR_VERSION};
  posix_acl_xattr_entry entries[5] = {{ACL_USER_OBJ, 6, ~0U},
                                      {ACL_USER, 4, 1001},
                                      {ACL_GROUP_OBJ, 4, ~0U},
                                      {ACL_MASK, 4, ~0U},
                                      {ACL_OTHER, 0, ~0U}};
} __attribute__((packed));

const AccessList access_list;
const vfs_cap_data capability{VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE, {{1U << 10, 0}, {}}};

template <typename T>
void has_attribute(Verdict& verdict, const char* path, const char* name, const T& wanted) {
  char now[256];
  ssize_t size = getxattr(path, name, now, sizeof now);
  verdict.expect(size == sizeof wanted && memcmp(now, &wanted, sizeof wanted) == 0,
                 "%s of %s is another (%zd bytes): %s", name, path, size, strerror(errno));
}

// Answers each byte with one of its own: 'y' when all is as it should be.
[[noreturn]] void other_user(int questions, int answers, int asynchronous) {
  gid_t groups[] = {2000, 2001};
  need(setgroups(2, groups) == 0 && setresgid(1000, 1000, 1000) == 0 &&
           setresuid(1000, 1000, 1000) == 0,
       "another user");
  int mine = open("/tmp/mine", O_RDWR | O_CREAT | O_APPEND, 0600);
  need(mine >= 0 && fcntl(asynchronous, F_SETOWN, getpid()) == 0, "a file of another user");
  int deleted = open("/tmp/deleted-too", O_RDWR | O_CREAT, 0600);
  need(deleted >= 0 && unlink("/tmp/deleted-too") == 0, "a deleted file of another user");
  uint64_t before = 0;
  for (char byte; read(questions, &byte, 1) == 1;) {
    gid_t now[8];
    bool well = getuid() == 1000 && getegid() == 1000 && getgroups(8, now) == 2 && now[1] == 2001;
    struct stat a{}, b{};
    well = well && fstat(mine, &a) == 0 && a.st_uid == 1000 && stat("/tmp/mine", &b) == 0 &&
           a.st_ino == b.st_ino && write(mine, "x", 1) == 1 && open("/tmp/secret", O_RDONLY) < 0;
    well = well && static_cast<uint64_t>(a.st_size) == before && fstat(deleted, &b) == 0 &&
           b.st_uid == 1000 && b.st_gid == 1000;
    before++;
    byte = well ? 'y' : 'n';
    if (write(answers, &byte, 1) != 1) break;
  }
  _exit(1);
}

}  // namespace

int main() {
  signal(SIGIO, SIG_IGN);
  need(chmod("/tmp", 01777) == 0, "chmod");
  need(mkdir("/tmp/theirs", 0751) == 0 && chown("/tmp/theirs", 33, 44) == 0, "a directory");
  need(chmod("/tmp/theirs", 01751) == 0, "its mode");
  make("/tmp/theirs/file", 1234, 4321, 0640);
  make("/tmp/secret", 0, 0, 0600);
  make("/tmp/capable", 0, 0, 0755);
  need(symlink("file", "/tmp/theirs/link") == 0 && lchown("/tmp/theirs/link", 7, 8) == 0, "a link");
  need(setxattr("/tmp/theirs/file", "system.posix_acl_access", &access_list, sizeof access_list,
                0) == 0,
       "an access list");
  need(setxattr("/tmp/capable", "security.capability", &capability, sizeof capability, 0) == 0,
       "file capabilities");
  int deleted = make("/tmp/deleted", 1000, 1002, 0640);
  need(unlink("/tmp/deleted") == 0, "unlink");
  int outside = make("/data/deleted", 1003, 1004, 0640);
  need(unlink("/data/deleted") == 0, "unlink");
  int questions[2], answers[2], ends[2];
  need(pipe(questions) == 0 && pipe(answers) == 0 && pipe(ends) == 0, "pipes");
  need(write(ends[1], "waiting", 7) == 7, "a pipe's content");
  if (fork() == 0) other_user(questions[0], answers[1], ends[0]);
  std::atomic<uint64_t> turns{0};
  std::thread([&] {
    for (;; turns++) sleep_us(2000);
  }).detach();
  std::string maps = read_file("/proc/self/uid_map") + read_file("/proc/self/gid_map");

  serve([&](Verdict& verdict) {
    verdict.expect(maps == read_file("/proc/self/uid_map") + read_file("/proc/self/gid_map"),
                   "the id maps are others");
    struct stat s{};
    auto path = [&](const char* name, uid_t uid, gid_t gid, mode_t mode) {
      verdict.expect(lstat(name, &s) == 0, "%s: %s", name, strerror(errno));
      has_owner(verdict, name, s, uid, gid);
      verdict.expect(mode == 0 || (s.st_mode & 07777) == mode, "%s has the mode %o", name,
                     s.st_mode);
    };
    path("/tmp", 0, 0, 01777);
    path("/tmp/theirs", 33, 44, 01751);
    path("/tmp/theirs/file", 1234, 4321, 0640);
    path("/tmp/theirs/link", 7, 8, 0);
    path("/tmp/mine", 1000, 1000, 0600);
    has_attribute(verdict, "/tmp/theirs/file", "system.posix_acl_access", access_list);
    has_attribute(verdict, "/tmp/capable", "security.capability", capability);
    owned(verdict, deleted, "a deleted file", 1000, 1002);
    owned(verdict, outside, "a deleted file of the host's", 1003, 1004);
    owned(verdict, ends[0], "a pipe", 0, 0);
    int again = open(("/proc/self/fd/" + std::to_string(ends[1])).c_str(), O_WRONLY);
    verdict.expect(again >= 0, "the pipe can't be opened again: %s", strerror(errno));
    close(again);
    uint32_t uids[2] = {};
    verdict.expect(fcntl(ends[0], get_owner_uids, uids) == 0 && uids[0] == 1000 && uids[1] == 1000,
                   "the pipe's signals are sent by %u:%u", uids[0], uids[1]);
    char byte = '?';
    verdict.expect(
        write(questions[1], &byte, 1) == 1 && read(answers[0], &byte, 1) == 1 && byte == 'y',
        "the other user isn't what it was (%c)", byte);
    uint64_t then = turns;
    sleep_us(100000);
    verdict.expect(turns > then, "the thread stands still");
    verdict.expect(access("/proc/self/mem", W_OK) == 0 && chown("/tmp/secret", 5, 5) == 0 &&
                       chown("/tmp/secret", 0, 0) == 0,
                   "the container's root lost its rights: %s", strerror(errno));
  });
}
