"""Overmounts: mounts that hide one another, as real containers have them, and what lies beneath."""
import contextlib
import os
import shutil
import subprocess

from harness import Container, Skip, run, scenario, wait_for


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
GROUPS = ("blkio", "cpu", "memory", "name=systemd")


def with_lxcfs(config):
    """lxcfs' files over those of /proc, as container managers put them into config.json."""
    config["mounts"] = [m for m in config["mounts"] if m["destination"] != "/sys/fs/cgroup"]
    sources = {"/lxcfs": "lxcfs", **{f"/proc/{name}": f"lxcfs/proc/{name}" for name in PROC}}
    for destination, source in sources.items():
        config["mounts"].append({"destination": destination, "type": "bind", "source": source,
                                 "options": ["bind", "nosuid", "nodev"]})


@scenario
def overmounts(env):
    """The table of many an LXC container: /sys and /sys/fs/cgroup twice, with children under both;
    single files and parts of /proc bound over /proc; a FUSE file system's directories bound."""
    env.only_stasis()
    c = Container(env, "files", change=with_lxcfs)
    real = env.work / "real"
    for name in PROC:
        (real / "proc").mkdir(parents=True, exist_ok=True)
        (real / "proc" / name).write_text(f"{name} by lxcfs\n")
    for name in GROUPS:
        (real / "cgroup" / name).mkdir(parents=True)
    (c.bundle / "lxcfs").symlink_to(env.work / "lxcfs")
    with fuse(real, env.work / "lxcfs"), c:
        c.start()
        inside(c, "mount", "--bind", "/sys", "/sys")
        inside(c, "mount", "--bind", "/proc/sys/net", "/proc/sys/net")
        for _ in range(2):
            inside(c, "mount", "-t", "tmpfs", "-o", "size=12k,mode=755", "cgroup", "/sys/fs/cgroup")
            inside(c, "mkdir", "/sys/fs/cgroup/cgmanager")
            inside(c, "mount", "-t", "tmpfs", "-o", "size=4k", "none", "/sys/fs/cgroup/cgmanager")
        for name in GROUPS:
            inside(c, "mkdir", f"/sys/fs/cgroup/{name}")
            inside(c, "mount", "--bind", f"/lxcfs/cgroup/{name}", f"/sys/fs/cgroup/{name}")
        c.comes_back(c.observe())
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
