"""Containers that start from a checkpoint: the runtime makes them, the hook puts the tasks back."""
import fcntl
import json
import os
import pathlib
import time

import harness
from harness import Container, Failure, expect, run, scenario, wait_for
from scenarios import more_caps
from userns import hand_over, map_users

ANNOTATION = "dev.stasis.restore"


def from_checkpoint(c, image, change=lambda config: None):
    """The container's bundle is to start from `image`."""
    path = c.bundle / "config.json"
    config = json.loads(path.read_text())
    config.setdefault("annotations", {})[ANNOTATION] = str(image)
    change(config)
    path.write_text(json.dumps(config))
    for name in ("ask", "answer"):
        (c.data / name).unlink(missing_ok=True)


def start(c, how="create", ok=True):
    """Under runc; returns the seconds from `runc start` to its end."""
    if how == "run":
        c.runc("run", "-d", "--bundle", c.bundle, c.name, ok=ok)
        return None
    c.runc("create", "--bundle", c.bundle, c.name)
    begin = time.monotonic()
    try:
        c.runc("start", c.name, ok=ok)
    except Failure as failure:
        raise Failure(f"{failure}\n{restore_log(c)}") from None
    return time.monotonic() - begin


def restore_log(c):
    path = pathlib.Path(f"/run/stasis/{c.name}/restore.log")
    return path.read_text() if path.exists() else ""


def watchers(c):
    """Processes of ours that have the container's log open."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if pathlib.Path(f"/proc/{pid}/comm").read_text() != "stasis-watch\n":
                continue
            fds = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue
        if any(c.name in link_of(f"/proc/{pid}/fd/{fd}") for fd in fds):
            found.append(int(pid))
    return found


def link_of(path):
    """Empty when it has gone meanwhile."""
    try:
        return os.readlink(path)
    except OSError:
        return ""


def no_watcher(c):
    try:
        wait_for("the watcher's end", lambda: not watchers(c), 5)
    except Failure:
        raise Failure(f"a watcher is left: {watchers(c)}\n{restore_log(c)}") from None


def as_user(config):
    config["process"]["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [1001, 7]}


def may_gain_privileges(config):
    config["process"]["noNewPrivileges"] = False
    config["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["swapon", "swapoff", "reboot"], "action": "SCMP_ACT_ERRNO"}]}


def below_a_shell(config):
    """The init and its child are different programs."""
    program = config["process"]["args"][0]
    config["process"]["args"] = ["/bin/sh", "-c", f"sleep 1000 & {program} & wait"]


def fifty_processes(config):
    config["process"]["args"].append("50")


def mapped(config):
    """Its root is another uid of the host."""
    map_users(config)


# The programs that are restored in place: one line each. Program (of test/programs), what is
# special about its container (a function that changes its config.json; its name is the scenario's
# ending) -> options of the comparison afterwards: "ignore" names what may differ.
TABLE = {
    ("counter", None): {}, ("threads", None): {}, ("memory", None): {}, ("clock", None): {},
    ("signals", None): {}, ("tree", None): {}, ("limits", None): {}, ("files", None): {},
    ("pipes", None): {}, ("sysv", None): {}, ("undo", None): {}, ("mqueue", None): {"ignore": ("/fds/3", "/fds/4")},
    ("huge", None): {}, ("novdso", None): {}, ("unix_sockets", None): {}, ("memfd", None): {},
    ("locks", None): {"options": ("--file-locks",)}, ("handles", None): {}, ("names", None): {"ignore": ("/fds/3",)},
    ("futex", None): {}, ("sleepers", None): {},
    ("timers", None): {"ignore": ("/ShdPnd",)},  # which go on firing while we look
    ("confined", more_caps): {}, ("threads", as_user): {}, ("tree", may_gain_privileges): {},
    ("threads", below_a_shell): {}, ("tree", below_a_shell): {},
    ("tree", fifty_processes): {},
    ("threads", mapped): {}, ("tree", mapped): {}, ("files", mapped): {}, ("limits", mapped): {},
}


def in_place_scenario(program, change, ignore=(), options=()):
    name = f"in_place_{program}" + (f"_{change.__name__}" if change else "")

    @scenario(name=name)
    def go(env):
        env.only_stasis()
        with Container(env, program, change=change or (lambda config: None)) as c:
            if change is mapped:
                hand_over(c)
            c.start()
            before = c.observe()
            image = c.checkpoint(*options)
            c.gone()
            from_checkpoint(c, image)
            start(c)
            c.same_as(before, ignore)
            c.ask()
            no_watcher(c)
        c.gone()


for (_program, _change), _options in TABLE.items():
    in_place_scenario(_program, _change, **_options)


@scenario
def in_place_run(env):
    """`runc run`, in the foreground too: its exit code and output are the restored program's."""
    env.only_stasis()
    c, image = checkpointed(env)
    with c:
        def twice(config):
            config["hooks"]["createRuntime"] *= 2
        from_checkpoint(c, image, twice)
        start(c, "run")
        c.ask()
        c.runc("kill", c.name, "KILL")
        wait_for("its end", lambda: c.state()["status"] == "stopped")
        c.delete()
        process = harness.subprocess.Popen(["runc", "run", "--bundle", c.bundle, c.name],
                                           stdin=harness.subprocess.DEVNULL,
                                           stdout=harness.subprocess.DEVNULL,
                                           stderr=harness.subprocess.DEVNULL)
        wait_for("the container", lambda: (c.state() or {}).get("status") == "running")
        c.runc("kill", c.name, "KILL")
        expect(process.wait(20) == 137, f"exit code {process.returncode}")
    c.gone()


@scenario
def in_place_again(env):
    """What was started from a checkpoint can be checkpointed, and be restored in both ways."""
    env.only_stasis()
    c, image = checkpointed(env, "threads")
    with c:
        from_checkpoint(c, image)
        start(c)
        c.ask()
        before = c.observe()
        second = c.checkpoint()
        c.gone()
        # runc runs createRuntime in its own restore as well.
        c.restore(second).same_as(before)
        c.ask()
        third = c.checkpoint()
        c.gone()
        from_checkpoint(c, third)
        start(c)
        c.same_as(before)
        c.ask()
    c.gone()


@scenario
def in_place_mounts(env):
    """The new container's mounts, hostname and network are its own; what the old one had is told."""
    env.only_stasis()

    def more(config):
        config["mounts"] += [
            {"destination": "/more", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m"]},
            {"destination": "/cache", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m"]}]
    c = Container(env, "counter", change=more)
    with c:
        for name in ("more", "cache", "other"):
            (c.bundle / "rootfs" / name).mkdir()
        c.start()
        run("runc", "exec", c.name, "/bin/sh", "-c", "echo kept >/cache/note")
        image = c.checkpoint()
        c.gone()
        other = c.dir / "other"
        other.mkdir()
        (other / "note").write_text("new\n")

        def change(config):
            config["hostname"] = "another"
            config["mounts"] = [m for m in config["mounts"] if m["destination"] != "/more"]
            config["mounts"].append({"destination": "/other", "type": "bind", "source": str(other),
                                     "options": ["bind", "ro"]})
        from_checkpoint(c, image, change)
        start(c)
        c.ask()
        expect("/more (tmpfs) was mounted at the checkpoint" in restore_log(c), restore_log(c))
        said = run("runc", "exec", c.name, "/bin/sh", "-c",
                   "cat /cache/note /other/note; hostname; ls /more").stdout.split()
        expect(said == ["kept", "new", "another"], f"the container holds {said}")
    c.gone()


@scenario
def in_place_demo(env):
    """Script, pipe, tmpfs and bound files, under a placeholder."""
    env.only_stasis()
    with Container(env) as c:
        c.start()
        wait_for("some numbers", lambda: len(c.numbers()) > 5)
        image = c.checkpoint()
        c.gone()
        stood = len(c.numbers())

        def change(config):
            config["process"]["args"] = ["/bin/sleep", "100"]
        from_checkpoint(c, image, change)
        start(c)
        c.counts_on(stood)
        root = pathlib.Path(f"/proc/{c.init()}/root")
        expect("written at the start" in (root / "tmp/note").read_text(), "the tmpfs is empty")
        expect(run("runc", "exec", c.name, "/bin/echo", "hello").stdout == "hello\n", "no exec")
        run("runc", "kill", c.name, "KILL")
        wait_for("its end", lambda: c.state()["status"] == "stopped")
    c.gone()


PYTHON = """
import itertools, threading, time
shown = open("/data/counter", "a", buffering=1)
state, lock = {"i": 0}, threading.Lock()
def count():
    while True:
        with lock:
            state["i"] += 1
            shown.write(f"{state['i']}\\n")
        time.sleep(0.02)
threading.Thread(target=count).start()
count()
"""


@scenario
def in_place_python(env):
    """A large program with shared libraries and threads, under a placeholder; the program changes."""
    env.only_stasis()

    def change(config):
        config["process"]["args"] = ["/usr/bin/python3", "-c", PYTHON]
        for path in ("/usr", "/lib", "/lib64"):
            config["mounts"].append({"destination": path, "type": "bind", "source": path,
                                     "options": ["rbind", "ro"]})

    def placeholder(config):
        config["process"]["args"] = ["/bin/sleep", "100"]
    with Container(env, change=change) as c:
        for name in ("usr", "lib", "lib64"):
            (c.bundle / "rootfs" / name).mkdir(exist_ok=True)
        c.start()
        wait_for("some numbers", lambda: len(c.numbers()) > 20)
        before = c.observe()
        image = c.checkpoint()
        c.gone()
        stood = len(c.numbers())
        from_checkpoint(c, image, placeholder)
        start(c)
        c.same_as(before)
        c.counts_on(stood, 20)
    c.gone()


@scenario
def in_place_clone_signal(env):
    """Clones hear that they are some before they go on; a signal that nobody can hear is refused."""
    env.only_stasis()
    seeds = "trap 'echo seeded >>/data/seeded' USR2; >/data/ready; while :; do sleep 0.05; done"

    def change(config):
        config["process"]["args"] = ["/bin/sh", "-c", seeds]
    with Container(env, change=change) as c:
        c.runc("run", "-d", "--bundle", c.bundle, c.name)
        wait_for("the trap", lambda: (c.data / "ready").exists())
        image = c.checkpoint()
        c.gone()
        for times in (1, 2):
            from_checkpoint(c, image, lambda config: config["annotations"].update(
                {"dev.stasis.clone-signal": "SIGUSR2" if times == 1 else "12"}))
            start(c)
            wait_for("the seed", lambda times=times: (c.data / "seeded").exists() and
                     (c.data / "seeded").read_text() == "seeded\n" * times)
            c.delete()
            wait_for("its end", lambda: c.state() is None)
        from_checkpoint(c, image, lambda config: config["annotations"].update(
            {"dev.stasis.clone-signal": "KILL"}))
        c.runc("create", "--bundle", c.bundle, c.name, ok=False)
        said = (c.dir / "runc-create.log").read_text()
        expect("no program can wait for such a signal" in said, said)
    c.gone()


@scenario
def in_place_readers(env):
    """As long as a checkpoint is read nobody writes into it; another takes its place meanwhile."""
    env.only_stasis()
    c, image = checkpointed(env, "threads")
    with c:
        c.start()
        reader = os.open(image, os.O_RDONLY)
        fcntl.flock(reader, fcntl.LOCK_SH)
        first = (image / "inventory.img").stat().st_ino
        c.checkpoint(image=image, ok=False)
        expect("a restore is reading the one that is there" in c.engine_logs(), c.engine_logs())
        expect((image / "inventory.img").stat().st_ino == first, "it was written to")
        c.ask()
        writer = harness.subprocess.Popen([env.stasis, "checkpoint", c.name, "--image", image],
                                          stdout=harness.subprocess.DEVNULL)
        wait_for("the new one", lambda: (image / "inventory.img").stat().st_ino != first)
        expect("inventory.img" in os.listdir(reader), "what is read was removed")
        expect(writer.poll() is None, "the reader wasn't waited for")
        os.close(reader)
        expect(writer.wait(20) == 0, "no checkpoint")
        expect(not [p for p in c.dir.iterdir() if p.name.startswith(".")], "leftovers")
        from_checkpoint(c, image)
        start(c)
        c.ask()
    c.gone()


def checkpointed(env, program="counter", **keywords):
    """A container that was checkpointed and is gone, and its image."""
    c = Container(env, program, **keywords)
    c.start()
    image = c.checkpoint()
    c.gone()
    return c, image


@scenario
def hook_install(env):
    """The hooks.d files come and go; they are those of the package."""
    env.only_stasis()
    hooks = env.work / "deep/hooks.d"
    run(env.stasis, "hook", "install", "--dir", hooks)
    packaged = pathlib.Path(__file__).parents[2] / "packaging/hooks.d"
    names = sorted(p.name for p in hooks.iterdir())
    expect(names == sorted(p.name for p in packaged.iterdir()) and names, f"installed: {names}")
    for name in names:
        theirs = (packaged / name).read_text().replace("/usr/sbin/stasis", str(env.stasis))
        expect((hooks / name).read_text() == theirs, f"{name} differs from packaging/hooks.d")
    run(env.stasis, "hook", "install", "--dir", hooks)
    run(env.stasis, "hook", "uninstall", "--dir", hooks)
    expect(not list(hooks.iterdir()), "files are left")
    run(env.stasis, "hook", "uninstall", "--dir", hooks)


CGROUP2 = """mount --make-rprivate / && umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec crun --cgroup-manager=disabled --root "$@" """


class Crun:
    """crun in a mount namespace with cgroup v2 alone, which is all that it understands."""

    def __init__(self, c):
        if not harness.shutil.which("crun"):
            raise harness.Skip("needs crun")
        self.c = c

    def __call__(self, *args, ok=True, out=None):
        out = out or self.c.dir / "crun.out"
        with open(out, "w") as said:
            code = harness.subprocess.run(
                ["unshare", "-m", "sh", "-c", CGROUP2, "sh", self.c.dir / "crun", *map(str, args)],
                stdin=harness.subprocess.DEVNULL, stdout=said, stderr=said, timeout=60,
                check=False).returncode
        expect(ok is None or (code == 0) == ok, f"crun {args}: {code}\n{out.read_text()}\n{restore_log(self.c)}")
        return out.read_text()


@scenario(label="long")
def in_place_crun(env):
    """crun tells of the start before the program runs: its poststart hook waits for the outcome."""
    env.only_stasis()
    for program in ("counter", "threads", "tree"):
        c, image = checkpointed(env, program)
        with c:
            crun = Crun(c)

            def change(config):
                config["mounts"] = [m for m in config["mounts"] if m["type"] != "cgroup"]
            from_checkpoint(c, image, change)
            try:
                crun("create", "--bundle", c.bundle, c.name)
                crun("start", c.name)
                c.ask()
                no_watcher(c)
                expect(crun("exec", c.name, "/bin/echo", "here") == "here\n", "no exec")
                crun("kill", c.name, "KILL")
                crun("delete", "-f", c.name)
                program_file = c.bundle / "rootfs" / program
                program_file.write_bytes(program_file.read_bytes() + b"more")
                crun("create", "--bundle", c.bundle, c.name)
                # crun passes over what its hooks end with, but tells what they say.
                said = crun("start", c.name)
                expect("its size is" in said, said)
                expect('"stopped"' in crun("state", c.name), "the container runs")
                no_watcher(c)
            finally:
                crun("delete", "-f", c.name, ok=None)
        c.gone()
