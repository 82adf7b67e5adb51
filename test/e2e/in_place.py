"""Containers that start from a checkpoint: the runtime makes them, the hook puts the tasks back."""
import fcntl
import json
import os
import pathlib
import time

import harness
from harness import Container, Failure, expect, run, scenario, wait_for

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


def start(c, ok=True):
    """Under runc; returns the seconds from `runc start` to its end."""
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


@scenario
def in_place_hooks_twice(env):
    """A hook that config.json names twice."""
    env.only_stasis()
    c, image = checkpointed(env)
    with c:
        from_checkpoint(c, image, lambda config: config["hooks"].update(
            createRuntime=config["hooks"]["createRuntime"] * 2))
        start(c)
        c.ask()
        no_watcher(c)
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
        for told in ("/more (tmpfs) was mounted at the checkpoint, config.json has nothing there",
                     f"/other is {other} now, at the checkpoint nothing was mounted there"):
            expect(told in restore_log(c), restore_log(c))
        said = run("runc", "exec", c.name, "/bin/sh", "-c",
                   "cat /cache/note /other/note; hostname; ls /more").stdout.split()
        expect(said == ["kept", "new", "another"], f"the container holds {said}")
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
