// The /proc parsers on text of real kernels, on the running one, and on broken text.
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/auxv.h>
#include <time.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "base/scope_exit.h"
#include "kernel/fs.h"
#include "kernel/proc_fdinfo.h"
#include "kernel/proc_limits.h"
#include "kernel/proc_maps.h"
#include "kernel/proc_misc.h"
#include "kernel/proc_stat.h"
#include "kernel/proc_status.h"

using namespace stasis;
using namespace stasis::kernel;
using Catch::Contains;

namespace {

std::string without(std::string text, const std::string& line_start) {
  size_t at = text.find(line_start);
  REQUIRE(at != std::string::npos);
  return text.erase(at, text.find('\n', at) + 1 - at);
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

// Linux 6.18, a task of a container seen from the host.
const std::string status_6_18 =
    "Name:\ta\\nb (c)\\\\\n"
    "Umask:\t0027\nState:\tt (tracing stop)\nTgid:\t3071\nNgid:\t0\nPid:\t3072\nPPid:\t3050\n"
    "TracerPid:\t3000\nUid:\t1000\t1001\t1002\t1003\nGid:\t0\t0\t5\t0\nFDSize:\t64\n"
    "Groups:\t4 24 1000 \nNStgid:\t3071\t7\nNSpid:\t3072\t8\nNSpgid:\t3071\t7\nNSsid:\t3050\t1\n"
    "Kthread:\t0\nVmPeak:\t    3060 kB\nVmLck:\t      16 kB\nHugetlbPages:\t       0 "
    "kB\nCoreDumping:\t0\n"
    "THP_enabled:\t1\nuntag_mask:\t0xffffffffffffffff\nThreads:\t2\nSigQ:\t1/96365\n"
    "SigPnd:\t0000000000000200\nShdPnd:\t0000000000004000\nSigBlk:\t0000000000000200\n"
    "SigIgn:\t0000000000001000\nSigCgt:\t8000000000000002\n"
    "CapInh:\t0000000000000000\nCapPrm:\t000001fffeffffff\nCapEff:\t00000000a80425fb\n"
    "CapBnd:\t000001fffeffffff\nCapAmb:\t0000000000000400\nNoNewPrivs:\t1\nSeccomp:\t2\n"
    "Seccomp_filters:\t3\nSpeculation_Store_Bypass:\tvulnerable\n"
    "SpeculationIndirectBranch:\talways enabled\nCpus_allowed:\t3\n";

}  // namespace

TEST_CASE("status of Linux 6.18") {
  ProcStatus s = parse_status(status_6_18);
  CHECK(s.name == "a\nb (c)\\");
  CHECK(s.state == 't');
  CHECK(s.umask == 0027u);
  CHECK(s.tgid == 3071);
  CHECK(s.pid == 3072);
  CHECK(s.ppid == 3050);
  CHECK(s.tracer == 3000);
  CHECK(s.uid == std::array<uint32_t, 4>{1000, 1001, 1002, 1003});
  CHECK(s.gid == std::array<uint32_t, 4>{0, 0, 5, 0});
  CHECK(s.groups == std::vector<uint32_t>{4, 24, 1000});
  CHECK(s.ns_tgid == std::vector<pid_t>{3071, 7});
  CHECK(s.ns_pid == std::vector<pid_t>{3072, 8});
  CHECK(s.ns_pgid == std::vector<pid_t>{3071, 7});
  CHECK(s.ns_sid == std::vector<pid_t>{3050, 1});
  CHECK(s.fd_size == 64);
  CHECK(s.threads == 2);
  CHECK(s.pending == 0x200);
  CHECK(s.shared_pending == 0x4000);
  CHECK(s.blocked == 0x200);
  CHECK(s.ignored == 0x1000);
  CHECK(s.caught == 0x8000000000000002);
  CHECK(s.cap_permitted == 0x1fffeffffff);
  CHECK(s.cap_effective == 0xa80425fb);
  CHECK(s.cap_ambient == 0x400);
  CHECK(s.no_new_privs);
  CHECK(s.seccomp == 2);
  CHECK(s.seccomp_filters == 3u);
  CHECK(s.thp_enabled == true);
  CHECK(s.locked_kib == 16u);
  CHECK_FALSE(s.kernel_thread);
}

TEST_CASE("status of older kernels and of a zombie") {
  // 6.1 has no Kthread, 5.15 no untag_mask either.
  std::string old = without(without(status_6_18, "Kthread:"), "untag_mask:");
  CHECK(parse_status(old).threads == 2);
  ProcStatus zombie =
      parse_status(replaced(without(without(without(old, "Umask:"), "THP_enabled:"), "VmLck:"),
                            "t (tracing stop)", "Z (zombie)"));
  CHECK(zombie.state == 'Z');
  CHECK_FALSE(zombie.umask);
  CHECK_FALSE(zombie.thp_enabled);
  CHECK_FALSE(zombie.locked_kib);
  CHECK(
      parse_status(replaced(status_6_18, "Groups:\t4 24 1000 \n", "Groups:\t \n")).groups.empty());
  CHECK(parse_status(status_6_18 + "Quux:\t7\n").seccomp == 2);
  // The name isn't trimmed: a task may call itself " x ".
  CHECK(parse_status(replaced(status_6_18, "\ta\\nb", "\t a\\nb")).name == " a\nb (c)\\");
}

TEST_CASE("a broken status is refused by field") {
  CHECK_THROWS_WITH(parse_status(without(status_6_18, "Uid:")), Contains("Uid is missing"));
  CHECK_THROWS_WITH(parse_status(replaced(status_6_18, "Uid:\t1000\t", "Uid:\t")),
                    Contains("Uid: unexpected value \"1001"));
  CHECK_THROWS_WITH(parse_status(replaced(status_6_18, "SigBlk:\t0", "SigBlk:\tg")),
                    Contains("SigBlk"));
  CHECK_THROWS_WITH(parse_status(replaced(status_6_18, "Threads:\t2", "Threads:\t-2")),
                    Contains("Threads"));
  CHECK_THROWS_AS(parse_status(""), Error);
}

TEST_CASE("stat takes the name between the outer parentheses") {
  const std::string tail =
      " R 6073 6073 2991 34816 -1 4194304 103 0 0 0 0 0 0 0 20 -5 1 0 83890 3133440 394 "
      "18446744073709551615 93901218697216 93901218717097 140723620976624 0 0 0 0 0 0 0 0 0 17 0 "
      "0 0 0 0 0 93901218733104 93901218734720 93901317992448 140723620985215 140723620985307 "
      "140723620985307 140723620986859 256\n";
  ProcStat s = parse_stat("6078 (a) R (b)" + tail);
  CHECK(s.pid == 6078);
  CHECK(s.comm == "a) R (b");
  CHECK(s.state == 'R');
  CHECK(s.ppid == 6073);
  CHECK(s.pgrp == 6073);
  CHECK(s.session == 2991);
  CHECK(s.tty_nr == 34816);
  CHECK(s.tpgid == -1);
  CHECK(s.flags == 4194304);
  CHECK(s.priority == 20);
  CHECK(s.nice == -5);
  CHECK(s.num_threads == 1);
  CHECK(s.start_time == 83890);
  CHECK(s.start_code == 93901218697216);
  CHECK(s.end_code == 93901218717097);
  CHECK(s.start_stack == 140723620976624);
  CHECK(s.exit_signal == 17);
  CHECK(s.start_data == 93901218733104);
  CHECK(s.end_data == 93901218734720);
  CHECK(s.start_brk == 93901317992448);
  CHECK(s.arg_start == 140723620985215);
  CHECK(s.arg_end == 140723620985307);
  CHECK(s.env_start == 140723620985307);
  CHECK(s.env_end == 140723620986859);
  CHECK(s.exit_code == 256);
  CHECK(parse_stat("1 ()" + tail).comm.empty());
  CHECK_THROWS_WITH(parse_stat("1 (x) R 1 2 3\n"), Contains("fields instead of 52"));
  CHECK_THROWS_AS(parse_stat("1 x R 1"), Error);
  CHECK_THROWS_AS(parse_stat(""), Error);
}

TEST_CASE("maps") {
  auto areas = parse_maps(
      "557436a93000-557436a95000 r--p 00001000 fe:1a 247498                     /usr/bin/a b\n"
      "7f0000000000-7f0000001000 rw-s 00000000 00:01 1035                       /dev/zero "
      "(deleted)\n"
      "7f0000001000-7f0000003000 ---p 00000000 00:00 0 \n"
      "7ffc3b000000-7ffc3b021000 rw-p 00000000 00:00 0                          [stack]\n"
      "7ffc3b022000-7ffc3b023000 r-xp 00000000 00:00 0                          /x\\012y\n"
      "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n");
  REQUIRE(areas.size() == 6);
  CHECK(areas[0].start == 0x557436a93000);
  CHECK(areas[0].size() == 0x2000);
  CHECK(areas[0].prot == PROT_READ);
  CHECK(areas[0].offset == 0x1000);
  CHECK(areas[0].dev_major == 0xfe);
  CHECK(areas[0].dev_minor == 0x1a);
  CHECK(areas[0].inode == 247498);
  CHECK(areas[0].path == "/usr/bin/a b");
  CHECK_FALSE(areas[0].shared);
  CHECK(areas[1].shared);
  CHECK(areas[1].path == "/dev/zero (deleted)");
  CHECK(areas[2].prot == PROT_NONE);
  CHECK(areas[2].path.empty());
  CHECK(areas[4].path == "/x\ny");
  CHECK(areas[5].end == 0xffffffffff601000);
  CHECK_THROWS_AS(parse_maps("1000-1000 rw-p 0 00:00 0\n"), Error);
  CHECK_THROWS_AS(parse_maps("1000-2000 rwzp 0 00:00 0\n"), Error);
  CHECK_THROWS_AS(parse_maps("1000-2000 rwx 0 00:00 0\n"), Error);
  CHECK_THROWS_AS(parse_maps("1000-3000 rwxp 0 00:00 0\n2000-4000 rwxp 0 00:00 0\n"), Error);
  CHECK_THROWS_AS(parse_maps("junk\n"), Error);
}

TEST_CASE("smaps gives VmFlags, unknown ones by name") {
  const std::string text =
      "557436a93000-557436a95000 r--p 00000000 fe:00 247498                     /usr/bin/head\n"
      "Size:                  8 kB\nProtectionKey:         0\nVmFlags: rd mr mw me dw zz q9 \n"
      "7ffc3b000000-7ffc3b021000 rw-p 00000000 00:00 0                          [stack]\n"
      "Rss:                  16 kB\nVmFlags: rd wr mr mw me gd ac \n";
  auto areas = parse_smaps(text);
  REQUIRE(areas.size() == 2);
  CHECK(areas[0].flags.has("rd"));
  CHECK(areas[0].flags.has("dw"));
  CHECK_FALSE(areas[0].flags.has("wr"));
  CHECK(areas[0].flags.unknown() == "zz q9");
  CHECK(areas[1].flags.has("gd"));
  CHECK(areas[1].flags.has("ac"));
  CHECK(areas[1].flags.unknown().empty());
  CHECK_THROWS_WITH(parse_smaps(without(text, "VmFlags: rd mr")), Contains("VmFlags is missing"));
  CHECK_THROWS_AS(parse_smaps("VmFlags: rd\n"), Error);
}

TEST_CASE("limits come in the kernel's order of resources") {
  std::string text =
      "Limit                     Soft Limit           Hard Limit           Units     \n"
      "Max cpu time              unlimited            unlimited            seconds   \n"
      "Max file size             unlimited            unlimited            bytes     \n"
      "Max data size             unlimited            unlimited            bytes     \n"
      "Max stack size            8388608              unlimited            bytes     \n"
      "Max core file size        0                    unlimited            bytes     \n"
      "Max resident set          unlimited            unlimited            bytes     \n"
      "Max processes             96365                96366                processes \n"
      "Max open files            20000                20001                files     \n"
      "Max locked memory         8388608              8388608              bytes     \n"
      "Max address space         unlimited            unlimited            bytes     \n"
      "Max file locks            unlimited            unlimited            locks     \n"
      "Max pending signals       96365                96365                signals   \n"
      "Max msgqueue size         819200               819200               bytes     \n"
      "Max nice priority         0                    0                    \n"
      "Max realtime priority     1                    2                    \n"
      "Max realtime timeout      unlimited            unlimited            us        \n";
  ResourceLimits limits = parse_limits(text);
  CHECK(limits[RLIMIT_CPU] == ResourceLimit{RLIM_INFINITY, RLIM_INFINITY});
  CHECK(limits[RLIMIT_STACK] == ResourceLimit{8388608, RLIM_INFINITY});
  CHECK(limits[RLIMIT_CORE] == ResourceLimit{0, RLIM_INFINITY});
  CHECK(limits[RLIMIT_NPROC] == ResourceLimit{96365, 96366});
  CHECK(limits[RLIMIT_NOFILE] == ResourceLimit{20000, 20001});
  CHECK(limits[RLIMIT_RTPRIO] == ResourceLimit{1, 2});
  CHECK_THROWS_WITH(parse_limits(without(text, "Max nice")), Contains("Max nice priority"));
  CHECK_THROWS_AS(parse_limits(replaced(text, "96366", "many ")), Error);
}

TEST_CASE("limits agree with getrlimit") {
  ResourceLimits limits = parse_limits(read_file("/proc/self/limits"));
  for (unsigned i = 0; i < limits.size(); ++i) {
    rlimit64 own{};
    REQUIRE(getrlimit64(static_cast<__rlimit_resource>(i), &own) == 0);
    CHECK(limits[i] == ResourceLimit{own.rlim_cur, own.rlim_max});
  }
}

TEST_CASE("fdinfo of plain and special files") {
  FdInfo file = parse_fdinfo("pos:\t9961\nflags:\t0100001\nmnt_id:\t27\nino:\t10952955\n");
  CHECK(file.pos == 9961);
  CHECK(file.flags == 0100001);
  CHECK(file.mnt_id == 27);
  CHECK(file.ino == 10952955u);
  CHECK(file.lines.empty());
  CHECK_FALSE(parse_fdinfo("pos:\t0\nflags:\t02\nmnt_id:\t15\n").ino);  // before 5.14

  FdInfo special = parse_fdinfo(
      "pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t1040\neventfd-count:                5\n"
      "eventfd-id: 1\ntfd:        4 events:       19 data:                4  pos:0 ino:3 sdev:f\n"
      "tfd:        5 events:       19 data:                5  pos:0 ino:3 sdev:f\n"
      "inotify wd:1 ino:2 sdev:800013 mask:800afce ignored_mask:0 fhandle-bytes:8\n"
      "lock:\t1: POSIX  ADVISORY  WRITE 17 fe:00:12 0 EOF\nPid:\t-1\nclockid: 0\n");
  REQUIRE(special.lines.size() == 8);
  REQUIRE(special.find("eventfd-count"));
  CHECK(*special.find("eventfd-count") == "5");
  CHECK(special.lines[2].key == "tfd");
  CHECK_THAT(special.lines[3].value, Catch::StartsWith("5 events:"));
  CHECK_THAT(*special.find("inotify"), Catch::StartsWith("wd:1 ino:2"));
  CHECK(*special.find("lock") == "1: POSIX  ADVISORY  WRITE 17 fe:00:12 0 EOF");
  CHECK(special.find("sigmask") == nullptr);
  CHECK_THROWS_WITH(parse_fdinfo("pos:\t0\nmnt_id:\t15\n"), Contains("flags is missing"));
  CHECK_THROWS_WITH(parse_fdinfo("pos:\t0\nflags:\t09\nmnt_id:\t15\n"), Contains("flags"));
}

TEST_CASE("cgroup lines") {
  auto lines = parse_cgroup("9:name=systemd:/\n4:cpu,cpuacct:/a:b/c\n0::/../x (deleted)\n");
  REQUIRE(lines.size() == 3);
  CHECK(lines[0].controllers == "name=systemd");
  CHECK(lines[1].hierarchy == 4);
  CHECK(lines[1].path == "/a:b/c");
  CHECK(lines[2].hierarchy == 0);
  CHECK(lines[2].controllers.empty());
  CHECK(lines[2].path == "/../x (deleted)");
  CHECK(parse_cgroup("").empty());
  CHECK_THROWS_AS(parse_cgroup("x::/\n"), Error);
  CHECK_THROWS_AS(parse_cgroup("0::\n"), Error);
}

TEST_CASE("posix timers") {
  auto timers = parse_timers(
      "ID: 1\nsignal: 60/00007fff86e452a8\nnotify: signal/pid.2634\nClockID: 0\n"
      "ID: 0\nsignal: 34/0000000000000007\nnotify: signal/tid.2635\nClockID: 7\n"
      "ID: 2\nsignal: 0/0000000000000000\nnotify: none/pid.0\nClockID: -6\n");
  REQUIRE(timers.size() == 3);
  CHECK(timers[0].id == 1);
  CHECK(timers[0].signal == 60);
  CHECK(timers[0].sigval == 0x7fff86e452a8);
  CHECK(timers[0].notify == SIGEV_SIGNAL);
  CHECK(timers[0].target == 2634);
  CHECK(timers[1].notify == SIGEV_THREAD_ID);
  CHECK(timers[1].clock == 7);
  CHECK(timers[2].notify == SIGEV_NONE);
  CHECK(timers[2].clock == -6);
  CHECK(parse_timers("").empty());
  CHECK_THROWS_AS(parse_timers("ID: 1\nsignal: 60/0\n"), Error);
  CHECK_THROWS_AS(parse_timers("signal: 60/0\n"), Error);
  CHECK_THROWS_AS(parse_timers("ID: 1\nsignal: 60/0\nnotify: fax/pid.1\nClockID: 0\n"), Error);
}

TEST_CASE("a timer of our own is read back") {
  sigevent event{};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = SIGUSR2;
  event.sigev_value.sival_int = 77;
  timer_t timer{};
  REQUIRE(timer_create(CLOCK_BOOTTIME, &event, &timer) == 0);
  ScopeExit gone([&] { timer_delete(timer); });
  auto timers = parse_timers(read_file("/proc/self/timers"));
  REQUIRE(timers.size() == 1);
  CHECK(timers[0].signal == SIGUSR2);
  CHECK(timers[0].sigval == 77);
  CHECK(timers[0].notify == SIGEV_SIGNAL);
  CHECK(timers[0].target == getpid());
  CHECK(timers[0].clock == CLOCK_BOOTTIME);
}

TEST_CASE("auxv, children, namespace links, numeric entries") {
  auto words = parse_auxv(read_file("/proc/self/auxv"));
  REQUIRE(words.size() % 2 == 0);
  bool found = false;
  for (size_t i = 0; i < words.size(); i += 2)
    if (words[i] == AT_PAGESZ) found = words[i + 1] == getauxval(AT_PAGESZ);
  CHECK(found);
  CHECK_THROWS_AS(parse_auxv("12345678"), Error);

  CHECK(parse_children("12 13 \n") == std::vector<pid_t>{12, 13});
  CHECK(parse_children("").empty());
  CHECK(parse_namespace_link("mnt:[4026531840]", "mnt") == 4026531840u);
  CHECK_THROWS_AS(parse_namespace_link("mnt:[4026531840]", "net"), Error);
  CHECK_THROWS_AS(parse_namespace_link("mnt:[x]", "mnt"), Error);
  CHECK_THROWS_AS(parse_namespace_link("mnt:", "mnt"), Error);

  UniqueFd task = stasis::kernel::open("/proc/self/task", O_RDONLY | O_DIRECTORY);
  CHECK(numeric_entries(task.get(), "/proc/self/task") == std::vector<int>{getpid()});
  CHECK(numeric_entries(task.get(), "/proc/self/task").size() == 1);  // and once more
}

TEST_CASE("the running kernel's files of this very process parse") {
  ProcStatus status = parse_status(read_file("/proc/self/status"));
  CHECK(status.pid == getpid());
  CHECK(status.ppid == getppid());
  CHECK(status.uid[1] == geteuid());
  ProcStat stat = parse_stat(read_file("/proc/self/stat"));
  CHECK(stat.pid == getpid());
  CHECK(stat.comm == status.name);
  CHECK(stat.session == getsid(0));
  auto maps = parse_maps(read_file("/proc/self/maps"));
  auto smaps = parse_smaps(read_file("/proc/self/smaps"));
  CHECK(maps.size() > 5);
  CHECK(smaps.size() >= maps.size() - 2);
  for (const MappedArea& area : smaps) {
    CHECK(area.flags.unknown().empty());
    CHECK(area.flags.has("rd") == ((area.prot & PROT_READ) != 0));
  }
  CHECK_FALSE(parse_cgroup(read_file("/proc/self/cgroup")).empty());
}
