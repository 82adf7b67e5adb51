"""The scenarios: what a container goes through, and what must be true of it afterwards."""
import json
import os
import pathlib
import socket
import stat
import struct

import faults
import observe
from harness import Container, Skip, expect, run, scenario, wait_for

ALL_CAPS = ["CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_SYS_NICE"]


def more_caps(config):
    for kind in ("bounding", "effective", "permitted"):
        config["process"]["capabilities"][kind] += [
            c for c in ALL_CAPS if c not in config["process"]["capabilities"][kind]]


def round_trip(env, container, door="runc", ignore=()):
    with container:
        container.start()
        container.comes_back(container.observe(), door, ignore)
    container.gone()


def program_scenario(program, *args, ignore=(), name=None, label="e2e", seconds=180, **keywords):
    @scenario(name=name or program, label=label, seconds=seconds)
    def go(env):
        round_trip(env, Container(env, program, *args, **keywords), ignore=ignore)
    return go


for _program in ("counter", "threads", "memory", "clock", "signals", "tree", "limits",
                 "files", "pipes", "unix_sockets", "futex", "sleepers", "advice", "orphans", "filters",
                 "sysv", "huge", "novdso", "memfd"):
    program_scenario(_program)
program_scenario("timers", ignore=("/ShdPnd",))  # which go on firing while we look
program_scenario("confined", change=more_caps)
program_scenario("handles")
program_scenario("crowd", "100")
for _program, _count in (("tree", "300"), ("tree", "1000"), ("crowd", "1000")):
    program_scenario(_program, _count, name=f"{_program}_{_count}", label="long", seconds=600)
program_scenario("names", ignore=("/fds/3",))  # which tells the other name then


@scenario
def locks(env):
    """File locks come back; who asks for CRIU has to ask for them."""
    with Container(env, "locks") as c:
        c.start()
        before = c.observe()
        if env.stasis:
            c.checkpoint(ok=False)
            c.ask()
        for options in (["--leave-running"], [], []):
            image = c.checkpoint("--file-locks", *options)
            if not options:
                c.restore(image, "--file-locks")
            c.same_as(before)
            c.ask()


@scenario
def locks_native(env):
    """Natively file locks are taken along unasked."""
    env.only_stasis()
    round_trip(env, Container(env, "locks"), door="stasis")
program_scenario("touch", "64")

# More than one message between sockets can carry, and than the queue of a datagram socket holds.
program_scenario("descriptors", "3000", change=lambda config: config["process"].pop("rlimits", None))


def shared_in_proportion(c):
    """Kilobytes that the container's processes take, shared pages counted once."""
    total = 0
    for pid in observe.pids_of(c.init()):
        with open(f"/proc/{pid}/smaps_rollup") as rollup:
            total += sum(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
    return total


@scenario
def prefork(env):
    """Workers share their server's memory copy-on-write, before and afterwards, twice."""
    c = Container(env, "prefork", "12", "16")
    with c:
        c.start()
        took = shared_in_proportion(c)
        expect(took < 2 * 16 * 1024, f"the program itself shares little: {took} kB")
        before = c.observe()
        for _ in range(2):
            image = c.checkpoint()
            c.gone()
            c.restore(image).same_as(before)
            c.ask()
            takes = shared_in_proportion(c)
            expect(takes < took * 1.05, f"it took {took} kB and takes {takes} kB now")
    c.gone()


@scenario(label="long")
def prefork_100(env):
    """A hundred workers: the same within a twentieth of what they took."""
    with Container(env, "prefork", "100", "4") as c:
        c.start()
        took = shared_in_proportion(c)
        c.comes_back(c.observe())
        takes = shared_in_proportion(c)
        expect(takes < took * 1.05, f"it took {took} kB and takes {takes} kB now")
    c.gone()


def again_and_again(env, program, compare=True, **keywords):
    """Left running and checked, checkpointed and restored: twice, through both doors."""
    with Container(env, program, **keywords) as c:
        c.start()
        before = c.observe() if compare else None
        for door in ("runc", "stasis") if env.stasis else ("runc",):
            c.checkpoint("--leave-running", door=door)
            c.ask()
            image = c.checkpoint(door=door)
            c.gone()
            c.restore(image, door=door)
            if compare:
                c.same_as(before)
            c.ask()
    c.gone()


@scenario
def sysv_again(env):
    """System V objects, with their ids and content."""
    again_and_again(env, "sysv")


@scenario
def undo(env):
    """Semaphore operations are undone when a restored process ends, which CRIU forgets."""
    env.only_stasis()
    again_and_again(env, "undo", compare=False)


@scenario
def message_queues(env):
    """POSIX queues come back with those who wait at them, and what waits in them; one that is to tell
    of its next message is refused."""
    env.only_stasis()
    again_and_again(env, "mqueue", compare=False)
    with Container(env, "mqueue", "told") as c:
        c.start()
        said = c.stasis("plan", c.name, ok=None)
        expect("/told of whose next message" in said.stdout + said.stderr, said.stdout + said.stderr)
        c.checkpoint(ok=False)
        c.ask()
    c.gone()


class Queues(Container):
    def same_as(self, before, ignore=()):  # a queue is opened by its mount
        return super().same_as(before, (*ignore, "/fds/"))


for _how, _word in ((faults.FAIL, "fail"), (faults.KILL, "kill")):
    scenario(lambda env, how=_how: faults.sweep_dump(env, "mqueue", how, faults.SAMPLE, Queues),
             name=f"dump_{_word}_mqueue", seconds=300)
scenario(lambda env: faults.sweep_restore(env, "mqueue", faults.FAIL, faults.SAMPLE, Queues),
         name="restore_fail_mqueue", seconds=300)


@scenario
def network_of_its_own(env):
    """Loopback's addresses, routes, rules and sysctls stay; what can't be made again is refused."""
    env.only_stasis()

    def inside(c, *command, ok=True):
        return run("nsenter", f"--net=/proc/{c.init()}/ns/net", *command, ok=ok).stdout

    def view(c):
        return [inside(c, "ip", *what) for what in (
            ("addr", "show", "lo"), ("route",), ("route", "show", "table", "77"),
            ("-6", "route"), ("rule",), ("-6", "rule"))] + [
            inside(c, "cat", f"/proc/sys/net/{name}") for name in (
                "ipv4/conf/lo/rp_filter", "ipv4/conf/all/forwarding", "ipv6/conf/lo/hop_limit",
                "ipv4/conf/default/arp_announce")]
    with Container(env, "counter") as c:
        c.start()
        for what in (("addr", "add", "10.1.2.3/32", "dev", "lo"),
                     ("addr", "add", "fd00::7/128", "dev", "lo"),
                     ("addr", "del", "127.0.0.1/8", "dev", "lo"),
                     ("addr", "add", "127.0.0.2/8", "dev", "lo"),
                     ("route", "add", "10.9.0.5", "dev", "lo"),
                     ("route", "add", "10.9.0.1", "via", "10.9.0.5"),
                     ("route", "add", "blackhole", "10.66.0.0/16", "table", "77"),
                     ("-6", "route", "add", "fd01::/64", "dev", "lo"),
                     ("rule", "add", "from", "10.1.2.3", "table", "77", "priority", "500")):
            inside(c, "ip", *what)
        for name, value in (("ipv4/conf/lo/rp_filter", 1), ("ipv4/conf/all/forwarding", 1),
                            ("ipv6/conf/lo/hop_limit", 33), ("ipv4/conf/default/arp_announce", 2)):
            inside(c, "sh", "-c", f"echo {value} > /proc/sys/net/{name}")
        before = view(c)
        for door in ("runc", "stasis"):
            c.checkpoint("--leave-running", door=door)
            image = c.checkpoint(door=door)
            c.gone()
            c.restore(image, door=door)
            expect(view(c) == before, f"was {before}, is {view(c)}")
            c.ask()
        inside(c, "iptables-legacy", "-A", "INPUT", "-p", "tcp", "--dport", "7", "-j", "DROP")
        said = c.stasis("plan", c.name, ok=None)
        expect("iptables table filter" in said.stdout + said.stderr, said.stdout + said.stderr)
        c.checkpoint(ok=False)
        c.ask()
    c.gone()


PROFILE = """profile stasis-test flags=(attach_disconnected,mediate_deleted) {
  file, mount, umount, pivot_root, capability, network, signal, ptrace, unix, dbus,
  deny /etc/hostname r,
}
"""


@scenario
def apparmor(env):
    """A container under an AppArmor profile comes back under it."""
    if not os.path.exists("/sys/kernel/security/apparmor"):
        raise Skip("this kernel has no AppArmor")
    run("apparmor_parser", "-r", "-K", input=PROFILE)

    def change(config):
        config["process"]["apparmorProfile"] = "stasis-test"
    c = Container(env, "threads", change=change)
    with c:
        c.start()
        before = c.observe()
        labels = {p["lsm"] for p in before["processes"].values()}
        expect(labels == {"stasis-test (enforce)"}, f"not confined by the profile: {labels}")
        image = c.checkpoint()
        c.gone()
        c.restore(image).same_as(before)
        c.ask()
    c.gone()


@scenario
def demo(env):
    """The demo's container: script, pipe, tmpfs, bound files, hooks."""
    with Container(env) as c:
        c.start()
        wait_for("some numbers", lambda: len(c.numbers()) > 5)
        image = c.checkpoint()
        c.gone()
        stood = len(c.numbers())
        c.restore(image)
        c.counts_on(stood)
        root = pathlib.Path(f"/proc/{c.init()}/root")
        for name in ("hosts", "hostname", "resolv.conf"):
            expect((root / "etc" / name).read_text() == (c.bundle / "etc" / name).read_text(),
                   f"another /etc/{name}")
        expect("written at the start" in (root / "tmp/note").read_text(), "the tmpfs is empty")
        (c.bundle / "etc/hosts").write_text("127.0.0.1 changed\n")
        expect("changed" in (root / "etc/hosts").read_text(), "/etc/hosts is a copy, not the file")


@scenario
def leave_running(env):
    """The container goes on under --leave-running, its image can be restored later."""
    with Container(env, "counter") as c:
        c.start()
        init, before = c.init(), c.observe()
        image = c.checkpoint("--leave-running")
        expect(c.init() == init, "another init")
        c.ask().same_as(before)
        again = c.checkpoint("--leave-running")
        c.ask().same_as(before)
        (c.data / "counter").rename(c.data / "counter.later")
        c.delete()
        c.gone()
        del image
        # The file outside has to be as it was at the checkpoint.
        numbers = (c.data / "counter.later").read_text().split()
        _restore_earlier(c, again, numbers, before)


def _restore_earlier(c, image, numbers, before):
    """Restores an image whose outside file has moved on: put back what can have been written then."""
    (c.data / "counter").write_text("")
    c.restore(image)
    c.same_as(before)
    first = wait_for("the counter to go on", lambda: (c.data / "counter").read_text().split())[0]
    expect(1 < int(first) <= int(numbers[-1]) + 1, f"the counter goes on at {first}")


@scenario
def twice(env):
    """Checkpoint, restore, checkpoint again, restore again."""
    with Container(env, "counter") as c:
        c.start()
        c.comes_back(c.observe(), times=3)


@scenario
def masked(env):
    """Masked and read-only paths are so again."""
    with Container(env, "counter") as c:
        c.start()
        c.restore(c.checkpoint())
        root = pathlib.Path(f"/proc/{c.init()}/root")
        for name in ("keys", "timer_list"):
            expect((root / "proc" / name).read_bytes() == b"", f"/proc/{name} can be read")
        expect(os.listdir(root / "sys/firmware") == [], "/sys/firmware can be read")
        for path in ("proc/sys", "proc/irq", "proc/bus"):
            flags = os.statvfs(root / path).f_flag
            expect(flags & os.ST_RDONLY, f"/{path} can be written")


@scenario
def seccomp_of_the_runtime(env):
    """A filter that runc set on a task that may gain privileges: podman's and Docker's default."""
    def change(config):
        config["process"]["noNewPrivileges"] = False
        config["linux"]["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": ["swapon"], "action": "SCMP_ACT_ERRNO"}]}
    round_trip(env, Container(env, "counter", change=change))


@scenario
def inherited_pipe(env):
    """stdout is a pipe of the caller; after the restore it is the new caller's pipe."""
    reader, writer = os.pipe()

    def shout(config):
        config["process"]["args"] = ["/bin/sh", "-c", "while :; do echo tick; sleep 0.05; done"]
    with Container(env, change=shout, stdout=writer) as c:
        c.runc("run", "-d", "--bundle", c.bundle, c.name)
        expect(os.read(reader, 5) == b"tick\n", "nothing on stdout")
        image = c.checkpoint()
        os.close(writer)
        os.close(reader)
        reader, c.stdout = os.pipe()
        c.restore(image)
        os.close(c.stdout)
        c.stdout = None
        expect(os.read(reader, 5) == b"tick\n", "nothing on the new stdout")
        expect(os.read(reader, 5) == b"tick\n", "nothing more on the new stdout")
    os.close(reader)


@scenario
def tmpfs_of_all_kinds(env):
    """What a tmpfs can hold and how it can be mounted; nobody has the socket."""
    env.only_stasis()
    options = ["size=40m", "nr_inodes=500", "mode=1750", "uid=5", "gid=6", "inode64", "huge=within_size",
               "mpol=prefer=static:0"]

    def change(config):
        config["mounts"].append({"destination": "/tmp/all", "type": "tmpfs", "source": "all",
                                 "options": ["nosuid", "noexec", *options]})
    with Container(env, "threads", change=change) as c:
        c.start()
        top = pathlib.Path(f"/proc/{c.init()}/root/tmp/all")
        (top / "deep/er").mkdir(parents=True, mode=0o2750)
        with open(top / "holes", "wb") as file:
            file.write(b"begin")
            file.seek(30 << 20)
            file.write(b"end")
        os.link(top / "holes", top / "deep/linked")
        os.symlink("../holes", top / "deep/link")
        os.mkfifo(top / "fifo", 0o640)
        os.mknod(top / "zero", stat.S_IFCHR | 0o622, os.makedev(1, 5))
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(f"/proc/{c.init()}/root/tmp/all/deep/socket")
        os.chown(top / "deep/socket", 12, 34)
        os.chmod(top / "deep/socket", 0o712)
        (top / "setuid").write_text("text")
        os.chown(top / "setuid", 1000, 1000)
        os.chmod(top / "setuid", 0o6755)
        os.setxattr(top / "setuid", "trusted.mine", b"a\0b")
        acl = b"\2\0\0\0" + b"".join(struct.pack("<HHI", *entry) for entry in (
            (1, 7, 2**32 - 1), (2, 6, 1234), (4, 5, 2**32 - 1), (16, 7, 2**32 - 1), (32, 0, 2**32 - 1)))
        os.setxattr(top / "deep", "system.posix_acl_access", acl)
        os.setxattr(top / "deep", "system.posix_acl_default", acl)
        before = c.observe()
        shown = json.dumps(before)
        for what in ("inode64", "nr_inodes=500", "mpol=prefer=static:0", "srwx--x-w- 12:34", "in 16 blocks",
                     "posix_acl_default"):
            expect(what in shown, f"no {what} to be seen: {shown}")
        c.comes_back(before, times=2)
    c.gone()


@scenario
def proc_options(env):
    """proc that hides other users' processes, and another that shows nothing but processes."""
    env.only_stasis()

    def change(config):
        for mount in config["mounts"]:
            if mount["destination"] == "/proc":
                mount["options"] = ["nosuid", "nodev", "noexec", "hidepid=2", "gid=7"]
        config["mounts"].append({"destination": "/tmp/processes", "type": "proc", "source": "proc",
                                 "options": ["nosuid", "nodev", "noexec", "subset=pid"]})

    def options(c):
        lines = pathlib.Path(f"/proc/{c.init()}/mountinfo").read_text().splitlines()
        return {line.split()[4]: line.split()[-1] for line in lines if " - proc proc " in line and "/proc/" not in line}
    with Container(env, "threads", change=change) as c:
        c.start()
        before = options(c)
        expect("hidepid=invisible" in before["/proc"] and "gid=7" in before["/proc"], f"{before}")
        expect("subset=pid" in before["/tmp/processes"], f"{before}")
        c.comes_back(c.observe(), times=2)
        expect(options(c) == before, f"{before} became {options(c)}")
        for path, shown in (("/tmp/processes/1/status", True), ("/tmp/processes/meminfo", False)):
            expect(pathlib.Path(f"/proc/{c.init()}/root{path}").exists() == shown, path)
    c.gone()


@scenario
def cgroup_namespace(env):
    """A container with a cgroup namespace of its own."""
    def change(config):
        config["linux"]["namespaces"].append({"type": "cgroup"})
    round_trip(env, Container(env, "counter", change=change))


@scenario
def volumes(env):
    """Bound directories and files of several kinds, shared, below one another, from symlinks."""
    def change(config):
        add = config["mounts"].append
        add({"destination": "/data/deep", "type": "bind", "source": "deep", "options": ["bind"]})
        add({"destination": "/linked", "type": "bind", "source": "link", "options": ["rbind", "ro"]})
        add({"destination": "/tmp/below", "type": "bind", "source": "deep", "options": ["rbind"]})
        add({"destination": "/tmp/own", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m"]})
        add({"destination": "/shared", "type": "bind", "source": "deep", "options": ["rbind", "rslave"]})
        config["root"]["readonly"] = False
    c = Container(env, "files", change=change)
    (c.bundle / "deep").mkdir()
    (c.bundle / "deep/file").write_text("deep")
    (c.bundle / "link").symlink_to("deep")
    (c.bundle / "data/deep").mkdir()
    round_trip(env, c)


@scenario
def replaced_source(env):
    """A bound file that is replaced by rename while the container runs (as resolv.conf is)."""
    with Container(env, "counter") as c:
        c.start()
        fresh = c.bundle / "etc/resolv.conf.new"
        fresh.write_text("nameserver 10.9.9.9\n")
        fresh.rename(c.bundle / "etc/resolv.conf")
        c.restore(c.checkpoint())
        text = pathlib.Path(f"/proc/{c.init()}/root/etc/resolv.conf").read_text()
        expect(text == "nameserver 10.9.9.9\n", f"resolv.conf says {text}")
        c.ask()


@scenario
def missing_source(env):
    """A bound file that is gone at restore: refused by name, nothing left, then mended."""
    env.only_stasis()
    with Container(env, "counter") as c:
        c.start()
        image = c.checkpoint()
        hidden = c.bundle / "etc/hosts.hidden"
        (c.bundle / "etc/hosts").rename(hidden)
        c.restore(image, ok=False)
        c.delete()
        c.gone()
        hidden.rename(c.bundle / "etc/hosts")
        c.restore(image)
        c.ask()


@scenario
def moved_bundle(env):
    """Restored from another bundle directory: the sources are the new ones."""
    with Container(env, "counter") as c:
        c.start()
        image = c.checkpoint()
        elsewhere = c.dir / "elsewhere"
        c.bundle.rename(elsewhere)
        c.bundle, c.data = elsewhere, elsewhere / "data"
        (elsewhere / "etc/hosts").write_text("127.0.0.1 elsewhere\n")
        c.restore(image)
        text = pathlib.Path(f"/proc/{c.init()}/root/etc/hosts").read_text()
        expect(text == "127.0.0.1 elsewhere\n", f"hosts says {text}")
        c.ask()


@scenario
def killed_by_signal(env):
    """A restored container is runc's as any other: kill, exit, delete."""
    with Container(env, "counter") as c:
        c.start()
        c.restore(c.checkpoint())
        expect(c.state()["status"] == "running", c.state())
        run("runc", "exec", c.name, "/bin/true")
        run("runc", "kill", c.name, "KILL")
        wait_for("the container to stop", lambda: c.state()["status"] == "stopped")
        run("runc", "delete", c.name)
        c.gone()


@scenario
def paused(env):
    """A container that was frozen at its checkpoint is left frozen (leave-running)."""
    env.only_stasis()
    with Container(env, "counter") as c:
        c.start()
        run("runc", "pause", c.name)
        c.checkpoint("--leave-running")
        expect(c.state()["status"] == "paused", f"was paused, is {c.state()['status']}")
        run("runc", "resume", c.name)
        c.ask()


@scenario
def load(env):
    """A restore in the midst of many short-lived processes."""
    def busy(config):
        config["process"]["args"] = ["/bin/sh", "-c", "while :; do /bin/true; /bin/true | /bin/cat; "
                                     "echo x >>/data/counter; done"]
    with Container(env, change=busy) as c:
        c.runc("run", "-d", "--bundle", c.bundle, c.name)
        lines = c.data / "counter"
        stood = 0
        for _ in range(5):
            wait_for("it to be busy", lambda: lines.exists() and lines.stat().st_size > stood + 20)
            image = c.checkpoint()
            c.gone()
            stood = lines.stat().st_size  # the file stays: it may have been open
            c.restore(image)
        wait_for("it to be busy", lambda: lines.stat().st_size > stood + 20)
