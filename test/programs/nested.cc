// nested: children in mount namespaces of their own, made by unshare: one that
// only adds to its copy, one that shares mounts with the parent both ways, one
// that is a slave, one that has pivoted into a root of its own, and a child of
// that one. Each answers with what it sees.
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>

#include "program.h"

using namespace program;

namespace {

using Check = std::function<std::string()>;  // what is wrong, or nothing

struct Child {
  int ask = -1, answer = -1;

  // Empty: all is well.
  std::string question(char what) const {
    char text[256] = {};
    if (write(ask, &what, 1) != 1 || read(answer, text, sizeof text - 1) < 1) return "no answer";
    return text[0] == '.' ? "" : text;
  }
};

// `set_up` returns what is checked when asked with '?'; with '+' and '-' it
// says whether something is mounted at /dev/shared/probe.
Child spawn(const std::function<Check()>& set_up) {
  int ask[2], answer[2];
  need(pipe(ask) == 0 && pipe(answer) == 0, "pipe");
  pid_t pid = fork();
  need(pid >= 0, "fork");
  if (pid > 0) {
    char ready = 0;
    need(read(answer[0], &ready, 1) == 1, "a child");
    return {ask[1], answer[0]};
  }
  need(unshare(CLONE_NEWNS) == 0, "unshare");
  Check check = set_up();
  need(write(answer[1], "r", 1) == 1, "write");
  for (char what; read(ask[0], &what, 1) == 1;) {
    std::string wrong = what == '?' ? check() : "";
    bool probe = access("/dev/shared/probe/mark", F_OK) == 0;
    if (what == '+' && !probe) wrong = "doesn't receive a mount";
    if (what == '-' && probe) wrong = "receives a mount, or keeps it";
    if (wrong.empty()) wrong = ".";
    if (write(answer[1], wrong.data(), wrong.size()) < 0) _exit(102);
  }
  _exit(0);
}

void mount_tmpfs(const char* at, const char* options = "size=64k") {
  need(mount("own", at, "tmpfs", 0, options) == 0, at);
}

void put(const char* path, const char* text) {
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
  need(fd >= 0 && write(fd, text, strlen(text)) == static_cast<ssize_t>(strlen(text)), path);
  close(fd);
}

// A file that only this namespace has: open, mapped, its directory the working one.
Check in_own_copy() {
  mount_tmpfs("/tmp");
  need(mkdir("/tmp/dir", 0700) == 0 && chdir("/tmp/dir") == 0, "a directory");
  int fd = open("file", O_RDWR | O_CREAT, 0600);
  need(fd >= 0 && ftruncate(fd, 4096) == 0, "a file");
  auto* mapped = static_cast<char*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  need(mapped != MAP_FAILED, "mmap");
  strcpy(mapped, "mine");
  int ghost = open("/tmp/ghost", O_RDWR | O_CREAT, 0600);
  need(ghost >= 0 && write(ghost, "boo", 3) == 3 && unlink("/tmp/ghost") == 0, "a deleted file");
  put("/tmp/later-hidden", "below");
  int hidden = open("/tmp/later-hidden", O_RDONLY);
  need(hidden >= 0 && mount("/data", "/tmp/dir", nullptr, MS_BIND, nullptr) == 0, "a bind");
  need(umount("/tmp/dir") == 0 && mount("/bin", "/data", nullptr, MS_BIND, nullptr) == 0, "binds");
  return [=] {
    char text[8] = {};
    if (read_file("/tmp/dir/file").substr(0, 4) != "mine") return "/tmp/dir/file is another";
    if (access("file", F_OK) != 0) return "the working directory is another";
    if (strcmp(mapped, "mine") != 0) return "the mapping is another";
    if (pread(fd, text, 4, 0) != 4 || strcmp(text, "mine") != 0) return "the open file is another";
    if (pread(ghost, text, 3, 0) != 3 || memcmp(text, "boo", 3) != 0) return "the ghost is gone";
    if (access("/data/busybox", X_OK) != 0) return "/bin isn't bound at /data";
    return "";
  };
}

Check as_peer() {
  return [] { return read_file("/dev/shared/kept") == "kept" ? "" : "/dev/shared is another"; };
}

Check as_slave() {
  need(mount(nullptr, "/dev/shared", nullptr, MS_SLAVE, nullptr) == 0, "slave");
  mount_tmpfs("/dev/shared/mine");
  put("/dev/shared/mine/x", "x");
  return as_peer();
}

// As sandboxes do it: the new root is a directory of a tmpfs whose own root is
// nowhere any more; or, plainly, that tmpfs.
Check pivoted(bool plain) {
  need(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0, "private");
  mount_tmpfs("/tmp", "size=128k,mode=755");
  const char* house = plain ? "/tmp" : "/tmp/house";
  if (!plain)
    need(mkdir(house, 0750) == 0 && mount(house, house, nullptr, MS_BIND, nullptr) == 0, house);
  need(chdir(house) == 0, "enter the house");
  for (const char* name : {"bin", "dev", "old", "proc"}) need(mkdir(name, 0755) == 0, name);
  need(mount("/bin", "bin", nullptr, MS_BIND, nullptr) == 0, "bind /bin");
  need(mount("/dev", "dev", nullptr, MS_BIND | MS_REC, nullptr) == 0, "bind /dev");
  need(mount("/proc", "proc", nullptr, MS_BIND, nullptr) == 0, "bind /proc");
  need(syscall(SYS_pivot_root, ".", "old") == 0, "pivot_root");
  need(chdir("/") == 0 && umount2("/old", MNT_DETACH) == 0, "leave the old root");
  put("/note", "in the new root");
  int note = open("/note", O_RDONLY);
  need(note >= 0, "open");
  return [=] {
    char text[32] = {};
    if (read_file("/note") != "in the new root") return "/note is another";
    if (pread(note, text, 31, 0) != 15 || strcmp(text, "in the new root") != 0)
      return "the open file is another";
    if (access("/bin/busybox", X_OK) != 0) return "/bin is missing";
    if (access("/proc/1/status", F_OK) != 0) return "/proc is missing";
    if (access("/tmp", F_OK) == 0 || access("/data", F_OK) == 0) return "the old root is seen";
    return "";
  };
}

}  // namespace

int main(int argc, char**) {
  need(mkdir("/dev/shared", 0755) == 0, "mkdir");
  mount_tmpfs("/dev/shared");
  need(mount(nullptr, "/dev/shared", nullptr, MS_SHARED, nullptr) == 0, "shared");
  need(mkdir("/dev/shared/probe", 0755) == 0 && mkdir("/dev/shared/mine", 0755) == 0, "mkdir");
  put("/dev/shared/kept", "kept");
  Child own = spawn(in_own_copy), peer = spawn(as_peer), slave = spawn(as_slave);
  Child root = spawn([&] { return pivoted(argc > 1); });
  Child below = spawn([] {  // a copy of the slave's kind, one generation further down
    need(mount(nullptr, "/dev/shared", nullptr, MS_SLAVE, nullptr) == 0, "slave");
    need(mount(nullptr, "/dev/shared", nullptr, MS_SHARED, nullptr) == 0, "shared slave");
    pid_t companion = fork();  // two processes in one namespace
    need(companion >= 0, "fork");
    while (companion == 0) pause();
    return as_peer();
  });

  serve([&](Verdict& verdict) {
    auto ask = [&](char what) {
      for (auto [name, child] : {std::pair{"the copy", &own},
                                 {"the peer", &peer},
                                 {"the slave", &slave},
                                 {"the pivoted", &root},
                                 {"the last", &below}}) {
        if (child == &root && what != '?') continue;
        std::string wrong = child->question(what);
        verdict.expect(wrong.empty(), "%s: %s", name, wrong.c_str());
      }
    };
    ask('?');
    verdict.expect(access("/tmp/dir", F_OK) != 0, "the parent sees a child's mounts");
    verdict.expect(access("/dev/shared/mine/x", F_OK) != 0, "the parent sees a slave's mount");
    if (mount("probe", "/dev/shared/probe", "tmpfs", 0, "size=4k") != 0)
      verdict.expect(false, "mount: %s", strerror(errno));
    close(open("/dev/shared/probe/mark", O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    ask('+');
    umount("/dev/shared/probe");
    ask('-');
  });
}
