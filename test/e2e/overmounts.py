"""Overmounts: mounts that hide one another, as real containers have them, and what lies beneath."""
import contextlib
import os
import pathlib
import shutil
import subprocess
from collections import Counter

from harness import Container, Skip, expect, run, scenario, wait_for
from sources import mounted


@contextlib.contextmanager
def fuse(source, target):
    """`source` shown at `target` by a FUSE server, as lxcfs shows its files."""
    if not shutil.which("bindfs") or not os.path.exists("/dev/fuse"):
        raise Skip("needs bindfs and /dev/fuse")
    target.mkdir()
    server = subprocess.Popen(["bindfs", "-f", source, target], stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for("the FUSE server", lambda: os.path.ismount(target))
        yield
    finally:
        run("umount", target)
        server.wait(10)
        target.rmdir()


def inside(c, *command):
    """A command in the container's namespaces, with all rights."""
    return run("nsenter", "-t", c.init(), "-m", "-n", "-p", "--", *command)


PROC = ("cpuinfo", "meminfo", "stat", "uptime")
GROUPS = ("blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory", "name=systemd",
          "net_cls", "net_prio", "perf_event")
DEVICES = ("full", "null", "random", "tty", "urandom", "zero")


def as_lxc(config):
    """What an LXC container has from its host, and nothing that runc adds."""
    config["mounts"] = [m for m in config["mounts"] if m["destination"] != "/sys/fs/cgroup"]
    config["linux"].update(maskedPaths=[], readonlyPaths=[])
    sources = {"/lxcfs": "lxcfs", "/run-of-host": "run",
               **{f"/proc/{name}": f"lxcfs/proc/{name}" for name in PROC},
               **{f"/dev/{name}": f"/dev/{name}" for name in DEVICES}}
    for destination, source in sources.items():
        config["mounts"].append({"destination": destination, "type": "bind", "source": source,
                                 "options": ["bind", "nosuid"]})


def mount_as_lxc(c):
    """Line by line what LXC mounts: /sys and its parts over one another, /sys/fs/cgroup twice."""
    def mount(*arguments):
        inside(c, "mount", *arguments)

    def over_itself(path, access="ro"):
        mount("--bind", path, path)
        mount("-o", f"remount,bind,{access}", path)
    over_itself("/proc/sys")
    over_itself("/proc/sys/net", access="rw")
    over_itself("/proc/version")  # it is /proc/sysrq-trigger there, which not every kernel has
    over_itself("/sys")
    over_itself("/proc/sys/fs/binfmt_misc", access="rw")
    network = "/sys/devices/virtual/net"
    for source in ("/sys", network + network.removeprefix("/sys")):
        mount("--bind", source, network)
        mount("-o", "remount,bind,rw", network)
    mount("-t", "debugfs", "none", "/sys/kernel/debug")
    mount("-t", "securityfs", "none", "/sys/kernel/security")
    mount("-t", "pstore", "none", "/sys/fs/pstore")
    for options, source in (("size=12k,mode=755", "cgroup"), ("size=4k,mode=755", "none")):
        mount("-t", "tmpfs", "-o", options, source, "/sys/fs/cgroup")
        inside(c, "mkdir", "/sys/fs/cgroup/cgmanager")
        mount("--bind", "/run-of-host/cgmanager", "/sys/fs/cgroup/cgmanager")
    for name in GROUPS:
        below = f"/sys/fs/cgroup/{name.removeprefix('name=')}"
        inside(c, "mkdir", below)
        mount("--bind", f"/lxcfs/cgroup/{name}", below)


# Mount point, root in its file system, type, writable: what is special in such a container's table.
TABLE = [
    ("/proc", "/", "proc", True), ("/proc/sys/net", "/sys/net", "proc", True), ("/proc/sys", "/sys", "proc", False),
    ("/proc/version", "/version", "proc", False), ("/sys", "/", "sysfs", False),
    ("/sys", "/", "sysfs", False), ("/sys/devices/virtual/net", "/", "sysfs", True),
    ("/sys/devices/virtual/net", "/devices/virtual/net", "sysfs", True), ("/sys/kernel/debug", "/", "debugfs", True),
    ("/sys/kernel/security", "/", "securityfs", True), ("/sys/fs/pstore", "/", "pstore", True),
    ("/proc/sys/fs/binfmt_misc", "/sys/fs/binfmt_misc", "proc", True), ("/sys/fs/cgroup", "/", "tmpfs", True),
    ("/sys/fs/cgroup", "/", "tmpfs", True), ("/sys/fs/cgroup/cgmanager", "/cgmanager", "tmpfs", True),
    ("/sys/fs/cgroup/cgmanager", "/cgmanager", "tmpfs", True),
    *((f"/proc/{name}", f"/proc/{name}", "fuse", True) for name in PROC),
    *((f"/dev/{name}", f"/{name}", "devtmpfs", True) for name in DEVICES),
    *((f"/sys/fs/cgroup/{name.removeprefix('name=')}", f"/cgroup/{name}", "fuse", True) for name in GROUPS)]


def table_of(c):
    rows = []
    for line in pathlib.Path(f"/proc/{c.init()}/mountinfo").read_text().splitlines():
        left, right = line.split(" - ", 1)
        _, _, _, root, point, options = left.split(" ")[:6]
        rows.append((point, root, right.split(" ")[0].split(".")[0], "rw" in options.split(",")))
    return rows


@scenario
def overmounts(env):
    """The table of an LXC container, all of it: /sys, its network devices and /sys/fs/cgroup twice, with
    children under both and one of the host's directories in both places; single files and parts of
    /proc bound over /proc; a FUSE file system's directories bound."""
    env.only_stasis()
    c = Container(env, "files", change=as_lxc)
    real = env.work / "real"
    for name in PROC:
        (real / "proc").mkdir(parents=True, exist_ok=True)
        (real / "proc" / name).write_text(f"{name} by lxcfs\n")
    for name in GROUPS:
        (real / "cgroup" / name).mkdir(parents=True)
    (c.bundle / "lxcfs").symlink_to(env.work / "lxcfs")
    host = env.work / "run"
    host.mkdir()
    (c.bundle / "run").symlink_to(host)
    with fuse(real, env.work / "lxcfs"), mounted(host, "-t", "tmpfs", "run"), c:
        (host / "cgmanager").mkdir()
        c.start()
        mount_as_lxc(c)
        left = Counter(TABLE) - Counter(table_of(c))
        expect(not left, f"the table lacks {left}")
        c.comes_back(c.observe(), times=2)
        inside(c, "touch", "/sys/fs/cgroup/cgmanager/here")
        expect((host / "cgmanager/here").exists(), "another file system is at cgmanager")
        inside(c, "umount", "/sys/fs/cgroup/cgmanager")
    c.gone()


@scenario
def overmounts_made_inside(env):
    """What the container's own root mounts over one another later comes back in its order."""
    env.only_stasis()
    with Container(env, "counter") as c:
        c.start()
        for command in (
                ("mount", "-t", "tmpfs", "-o", "size=1m", "first", "/tmp"),
                ("mkdir", "/tmp/a", "/tmp/a/b", "/tmp/b"),
                ("mount", "-t", "tmpfs", "-o", "size=2m", "below", "/tmp/a/b"),
                ("touch", "/tmp/a/b/hidden"),
                ("mount", "-t", "tmpfs", "-o", "size=3m", "over", "/tmp/a"),
                ("mkdir", "/tmp/a/b"),
                ("touch", "/tmp/a/b/seen"),
                ("mount", "--bind", "/tmp/a", "/tmp/b"),
                ("mount", "-t", "tmpfs", "-o", "size=4m", "top", "/tmp/a"),
                ("mount", "-t", "proc", "second", "/proc"),
                ("mount", "--bind", "/proc/sys", "/proc/sys"),
                ("mount", "--bind", "/sys", "/sys")):
            inside(c, *command)
        c.comes_back(c.observe())
        inside(c, "umount", "/tmp/a")
        inside(c, "test", "-e", "/tmp/a/b/seen")
        inside(c, "umount", "/tmp/b")
        inside(c, "umount", "/tmp/a")
        inside(c, "test", "-e", "/tmp/a/b/hidden")


def hides(name, *mounts):
    """Files that are open, mapped or somebody's working directory where `mounts` hide them."""
    @scenario(name=name)
    def go(env):
        env.only_stasis()
        with Container(env, "hidden") as c:
            c.start()
            for mount in mounts:
                inside(c, *mount)
            c.ask()
            c.comes_back(c.observe(), times=2)


OVER = ("mount", "-t", "tmpfs", "-o", "size=1m", "over")
hides("hidden_below", (*OVER, "/tmp/under"))
hides("fault_9_files_beneath_mounts", (*OVER, "/tmp/under"), (*OVER, "/tmp/under"), ("touch", "/tmp/under/dir"))
hides("hidden_mount", (*OVER, "/tmp"))
