"""Containers that take a snapshot of themselves when they are ready, and start from it afterwards."""
import contextlib
import json
import pathlib
import shutil
import signal
import subprocess
import time

from crun import Crun
from harness import Container, Skip, expect, os, run, scenario, wait_for
from in_place import no_watcher, restore_log, start, watchers
from in_place_faults import faults, some
from layers import Layers
from podman import Podman


def configure(c, when, change=lambda config: None):
    """The container's bundle is to start from c.dir/snapshot."""
    path = c.bundle / "config.json"
    config = json.loads(path.read_text())
    config.setdefault("annotations", {}).update(
        {"dev.stasis.snapshot": str(c.dir / "snapshot"), "dev.stasis.snapshot-when": when})
    change(config)
    path.write_text(json.dumps(config))
    for name in ("ask", "answer", "ready"):
        (c.data / name).unlink(missing_ok=True)


def log_says(c, line, seconds=20):
    wait_for(f"{line!r} in {restore_log(c)}", lambda: line in restore_log(c), seconds)


def cold(c, trigger=lambda: None):
    """A normal start, and the snapshot that comes of it; returns the log."""
    start(c)
    c.ready()
    trigger()
    wait_for("an end with the snapshot", lambda: not watchers(c))
    log = restore_log(c)
    expect("Snapshot taken" in log, log)
    c.ask()
    hidden = [p.name for p in c.dir.iterdir() if p.name.startswith(".")]
    expect(not hidden, f"left beside the snapshot: {hidden}")
    c.delete()
    wait_for("the container's end", lambda: c.state() is None)
    return log


def warm(c):
    """A start from the snapshot: the program doesn't set itself up again."""
    start(c)
    log = restore_log(c)
    expect("Restored in place" in log, log)
    no_watcher(c)
    c.ask()
    expect(not (c.data / "ready").exists(), "the program was started anew")
    c.delete()
    wait_for("the container's end", lambda: c.state() is None)
    return log


@scenario
def snapshot_delay(env):
    """Cold, warm, warm with another hostname; cold again with other words or another program."""
    env.only_stasis()
    with Container(env, "tree") as c:
        configure(c, "delay=300ms")
        cold(c)
        first = (c.dir / "snapshot/inventory.img").stat().st_ino
        configure(c, "delay=300ms")
        warm(c)

        def differs_freely(config):
            config["hostname"] = "another"
            config["annotations"]["org.example.note"] = "another"
        configure(c, "delay=300ms", differs_freely)
        warm(c)
        expect((c.dir / "snapshot/inventory.img").stat().st_ino == first, "a new one was taken")

        configure(c, "delay=300ms", lambda config: config["process"]["env"].append("MORE=1"))
        start(c)
        log_says(c, "config.json differs from the snapshot's in /process/env")
        c.delete()
        configure(c, "delay=300ms")
        cold(c)
        expect((c.dir / "snapshot/inventory.img").stat().st_ino != first, "no new one was taken")
        configure(c, "delay=300ms")
        warm(c)
        program = c.bundle / "rootfs/tree"
        os.utime(program)
        configure(c, "delay=300ms")
        start(c)
        log_says(c, "/tree isn't what it was at the snapshot")
        c.ready().ask()
    c.gone()


@scenario
def snapshot_image(env):
    """An upper directory of its own changes nothing; another lower one makes it another image."""
    env.only_stasis()
    layers = Layers(env, "threads")
    c = layers.container
    with layers.mounted(), c:
        for name in ("second", "third", "fourth"):
            layers.new_upper(name)
        (layers.lower / "patch").mkdir()
        for upper, lower, begin, other in (("first", "more", cold, False), ("second", "more", warm, False),
                                           ("third", "patch", cold, True), ("fourth", "patch", warm, False)):
            with layers.overlay(upper, lower):
                configure(c, "delay=100ms")
                log = begin(c)
                expect(("The image is another than the snapshot's" in log) == other, f"{upper}: {log}")
    c.gone()


@scenario
def snapshot_file(env):
    """Ready when a file appears; one that lies there from before doesn't count."""
    env.only_stasis()
    with Container(env, "threads") as c:
        (c.data / "deep").mkdir()
        (c.data / "deep/ready").touch()
        configure(c, "file=/data/deep/ready")

        def ready():
            expect(watchers(c) and not (c.dir / "snapshot").exists(), "taken for an old file")
            (c.data / "deep/ready").unlink()
            (c.data / "deep").rmdir()
            (c.data / "deep").mkdir()
            (c.data / "deep/ready").touch()
        cold(c, ready)
        configure(c, "file=/data/deep/ready")
        warm(c)
    c.gone()


@scenario
def snapshot_signal(env):
    """Ready when somebody tells the watcher."""
    env.only_stasis()
    with Container(env, "sleepers") as c:
        configure(c, "signal")
        place = pathlib.Path(f"/run/stasis/{c.name}/watcher")

        def tell():
            pid = int(wait_for("the watcher's id", lambda: place.exists() and place.read_text()))
            expect(watchers(c) == [pid], f"{pid} isn't the watcher")
            os.kill(pid, signal.SIGUSR1)
        cold(c, tell)
        configure(c, "signal")
        warm(c)
    c.gone()


@scenario
def snapshot_listen(env):
    """Ready when a socket listens in the container's network; it accepts after a warm start, too."""
    env.only_stasis()

    def later(config):
        config["process"]["args"] = ["/bin/sh", "-c", "sleep 0.5; exec /inet"]
    with Container(env, "inet", change=later) as c:
        configure(c, "listen=8080")
        cold(c)
        configure(c, "listen=8080")
        warm(c)  # whose question makes and accepts connections
    c.gone()

    def serves(config):
        config["process"]["args"] = ["/bin/sh", "-c", "sleep 0.5; exec nc -ll -p 8080 -e /bin/echo served"]
    with Container(env, change=serves) as c:
        for says in ("Snapshot taken", "Restored in place"):
            configure(c, "listen=8080")
            start(c)
            wait_for("the watcher's end", lambda: not watchers(c))
            expect(says in restore_log(c), restore_log(c))
            said = run("nsenter", "-t", c.init(), "-n", "busybox", "nc", "127.0.0.1", "8080").stdout
            expect(said == "served\n", f"it answers {said!r}")
            c.delete()
            wait_for("the container's end", lambda: c.state() is None)
    c.gone()


def says_ready(config):
    program = config["process"]["args"][0]
    config["process"]["args"] = [
        "/bin/sh", "-c", f"echo begins; sleep 0.5; echo 'serves since now' >&2; exec {program}"]


@scenario
def snapshot_log(env):
    """Output that can't be read again is refused when the container is made."""
    env.only_stasis()
    ends = os.pipe()
    with os.fdopen(ends[0]), os.fdopen(ends[1], "w") as pipe:
        for out, why in ((pipe, "which reads it, isn't known to write it"),
                         (None, "goes to /dev/null, where")):
            with Container(env, "threads", change=says_ready, stdout=out) as c:
                configure(c, "log=serves")
                c.runc("create", "--bundle", c.bundle, c.name, ok=False)
                said = (c.dir / "runc-create.log").read_text()
                expect(why in said, said)
            c.gone()


@scenario
def snapshot_host_file(env):
    """Output into a file of the host's: each start has its own, children too, and none takes the other's."""
    env.only_stasis()

    def change(config):
        config["process"]["args"] = ["/bin/sh", "-c", "echo cold; (while :; do echo child; sleep 0.1; done) & "
                                     "echo ready >&2; while :; do echo 'I count'; sleep 0.1; done"]
    with Container(env, change=change) as c:
        (env.work / "in").write_text("not read")
        for number, says in enumerate(("Snapshot taken", "Restored in place", "Restored in place")):
            path = env.work / f"out-{number}"
            configure(c, "log=^ready$")
            with open(path, "a") as out, open(env.work / "in") as given:
                subprocess.run(["runc", "run", "-d", "--bundle", c.bundle, c.name], check=True, timeout=60,
                               stdin=given, stdout=out, stderr=out)
            wait_for(says, lambda says=says: says in restore_log(c))
            wait_for("output", lambda path=path: all(path.read_text().count(line) > 3
                                                     for line in ("child", "I count")))
            expect(("cold" in path.read_text()) == (number == 0), path.read_text())
            for fd, file in enumerate((env.work / "in", path, path)):
                shown = os.stat(f"/proc/{c.init()}/fd/{fd}")
                expect(shown.st_ino == file.stat().st_ino, f"descriptor {fd} is another file")
            c.delete()
            whole = path.read_text()
        # Nobody but a start in place could give it what it had.
        result = run("runc", "--criu", env.stasis, "restore", "-d", "--image-path", c.dir / "snapshot", "--work-path",
                     c.dir / "work", "--bundle", c.bundle, c.name, ok=False)
        expect("no descriptor was given for it" in c.engine_logs() + result.stderr, c.engine_logs())
        expect(path.read_text() == whole, "somebody writes on")
    c.gone()


@scenario
def snapshot_given_up(env):
    """The watcher ends with the container, in whatever state it is; nothing is left."""
    env.only_stasis()
    for when in ("delay=1h", "delay=60m", "file=/never", "listen=1", "signal", "log=never"):
        with open(env.work / "shown", "a") as out, Container(env, "sleepers", stdout=out) as c:
            configure(c, when)
            if when == "delay=1h":
                c.runc("create", "--bundle", c.bundle, c.name, ok=False)
                expect("it is no time" in (c.dir / "runc-create.log").read_text(), "not told why")
                continue
            c.runc("create", "--bundle", c.bundle, c.name)
            expect(watchers(c), "there is no watcher")
            c.delete()
            wait_for(f"the watcher's end ({when}, created)", lambda: not watchers(c), 3)
            start(c)
            c.ready()
            expect(watchers(c), "there is no watcher")
            c.delete()
            wait_for(f"the watcher's end ({when})", lambda: not watchers(c), 3)
            expect(not (c.dir / "snapshot").exists(), "there is a snapshot")
        c.gone()


@scenario
def snapshot_refused(env):
    """What isn't right is said when the container is made; a checkpoint made by hand stays."""
    env.only_stasis()
    with Container(env, "sleepers") as c:
        c.start()
        c.checkpoint(image=c.dir / "snapshot")
        c.delete()
        for when, why in (("delay=1s", "that no snapshot annotation made"),
                          ("log=(", "its expression isn't RE2's"), ("soon", "no such way")):
            configure(c, when)
            c.runc("create", "--bundle", c.bundle, c.name, ok=False)
            said = (c.dir / "runc-create.log").read_text()
            (c.dir / "runc-create.log").unlink()
            expect(why in said, f"{when}: {said}")
        run(env.stasis, "inspect", c.dir / "snapshot")
    c.gone()


@scenario
def snapshot_damaged(env):
    """One that is seen to be damaged isn't used; one that can't be restored costs one start."""
    env.only_stasis()
    with Container(env, "threads") as c:
        configure(c, "delay=100ms")
        cold(c)
        os.truncate(next((c.dir / "snapshot").glob("pages-*.img")), 4096)
        configure(c, "delay=100ms")
        cold(c)
        record = c.dir / "snapshot/snapshot.json"
        record.write_text(json.dumps(json.loads(record.read_text()) | {"files": []}))
        program = c.bundle / "rootfs/threads"
        program.write_bytes(program.read_bytes() + b"more")
        configure(c, "delay=100ms")
        start(c, ok=False)
        expect("its size is" in restore_log(c), restore_log(c))
        no_watcher(c)
        c.delete()
        configure(c, "delay=100ms")
        cold(c)
        configure(c, "delay=100ms")
        warm(c)
    c.gone()


@scenario
def snapshot_watcher_killed(env):
    """The container goes on without its watcher; the next start takes the snapshot."""
    env.only_stasis()
    with Container(env, "threads") as c:
        configure(c, "delay=60s")
        start(c)
        c.ready()
        for pid in watchers(c):
            os.kill(pid, signal.SIGKILL)
        no_watcher(c)
        c.ask()
        expect(not (c.dir / "snapshot").exists(), "there is a snapshot")
        c.delete()
        configure(c, "delay=100ms")
        cold(c)
    c.gone()


def _snapshot_faults(env, count):
    """Like any start from a checkpoint, but where the snapshot can't be read it is a normal one; what
    has failed isn't tried again."""
    env.only_stasis()
    if not env.faults:
        raise Skip("needs stasis-faulty")

    def take(c, _image):
        shutil.rmtree(c.dir / "snapshot", ignore_errors=True)
        configure(c, "signal")
        cold(c, lambda: os.kill(watchers(c)[0], signal.SIGUSR1))
        return shutil.copytree(c.dir / "snapshot", c.dir / "kept")

    def arm(c, kept, change):
        shutil.rmtree(c.dir / "snapshot")
        shutil.copytree(kept, c.dir / "snapshot")
        configure(c, "signal", change)

    def whole(c):
        there = [(c.dir / "snapshot" / f"{name}.json").exists() for name in ("snapshot", "snapshot-failed")]
        expect(sorted(there) == [False, True], f"of the snapshot's record there is {there}")

    def started_anew(c):
        return "anew" if (c.data / "ready").exists() else None
    for what in ("FAIL", "KILL"):
        outcomes = faults(env, what, some(10, 4700, count), take, whole, arm, started_anew)
        expect(outcomes[False] > count // 3, f"{what}: hardly a call has failed: {outcomes}")


@scenario(seconds=300)
def snapshot_faults(env):
    """A sample of the calls of a warm start; snapshot_faults_long takes more."""
    _snapshot_faults(env, 8)


@scenario(label="long", seconds=3000)
def snapshot_faults_long(env):
    _snapshot_faults(env, 150)


@scenario
def snapshot_clones(env):
    """Containers of one name that start at once: a snapshot that any of them starts from."""
    env.only_stasis()
    with contextlib.ExitStack() as stack:
        clones = [stack.enter_context(Container(env, "tree")) for _ in range(4)]
        first = clones[0]

        def share(c):
            # The program's date is part of what has to be the same.
            if c is not first:
                shutil.copy2(first.bundle / "rootfs/tree", c.bundle / "rootfs/tree")
            configure(c, "file=/data/go", lambda config: config["annotations"].update(
                {"dev.stasis.snapshot": str(env.work / "shared")}))
        for c in clones:
            share(c)
            start(c)
            c.ready()
        for c in clones:
            (c.data / "go").touch()
        for c in clones:
            wait_for("the watcher's end", lambda c=c: not watchers(c))
            expect("Snapshot taken" in restore_log(c) or "meanwhile" in restore_log(c), restore_log(c))
            c.ask()
            c.delete()
        for c in clones:
            wait_for("the container's end", lambda c=c: c.state() is None)
            share(c)
        for c in clones:
            start(c)
        for c in clones:
            expect("Restored in place" in restore_log(c), restore_log(c))
            no_watcher(c)
            c.ask()
        expect(not [p.name for p in env.work.iterdir() if p.name.startswith(".")], "leftovers")
    for c in clones:
        c.gone()


def podman_snapshot(env, when):
    hooks = env.work / "hooks.d"
    run(env.stasis, "hook", "install", "--dir", hooks)
    place = env.work / "snapshot"
    program = ("i=0; echo begun; sleep 0.3; >/vol/ready; echo serves now >&2; "
               "while :; do i=$((i+1)); echo $i; sleep 0.02; done")
    with Podman(env) as p:
        p.import_busybox()

        def begin():
            p("--hooks-dir", hooks, "run", "-d", "--name", p.name, "--network=none", "--ulimit",
              "nofile=1000:1000", "--ulimit", "nproc=1000:1000", "--log-driver", "k8s-file",
              "--annotation", f"dev.stasis.snapshot={place}", "--annotation",
              f"dev.stasis.snapshot-when={when}", "busybox:test", "/bin/sh", "-c", program)
            log = pathlib.Path(f"/run/stasis/{p.id()}/restore.log")
            wait_for("the outcome", lambda: any(
                word in log.read_text() for word in ("Snapshot taken", "No snapshot", "Restored")))
            text = log.read_text()
            wait_for("some numbers", lambda: len(p("logs", p.name).split()) > 10)
            logs = p("logs", p.name).split()
            p("rm", "-f", "-t", "0", p.name)
            return text, logs
        text, logs = begin()
        expect("Snapshot taken" in text and "begun" in logs, f"{text}{logs[:5]}")
        text, logs = begin()
        expect("Restored in place" in text and "begun" not in logs, f"{text}{logs[:5]}")


@scenario(label="long")
def snapshot_podman(env):
    """podman run, rm, run: another container, with another id and overlay, from the first one's snapshot."""
    env.only_stasis()
    podman_snapshot(env, "file=/vol/ready")


@scenario(label="long")
def snapshot_podman_log(env):
    """Ready when it says so in the log that conmon writes, by whichever stream."""
    env.only_stasis()
    podman_snapshot(env, "log=^serves n.w$")


@scenario
def snapshot_killed(env):
    """The container is killed while it is checkpointed: neither it nor the watcher stays."""
    env.only_stasis()
    with Container(env, "tree", "50") as c:
        for turn in range(12):
            configure(c, "delay=200ms")
            start(c)
            started = time.monotonic()
            wait_for("the checkpoint's begin", lambda: "Froze" in restore_log(c)
                     or time.monotonic() > started + 5)
            time.sleep(turn * 0.002)
            c.delete()
            wait_for(f"the watcher's end: {restore_log(c)}", lambda: not watchers(c), 5)
            wait_for("the container's end", lambda: not c.leavings(), 5)
            shutil.rmtree(c.dir / "snapshot", ignore_errors=True)
        configure(c, "delay=200ms")
        cold(c)  # which removes what a killed one left
    c.gone()


@scenario(label="long")
def snapshot_crun(env):
    """crun, whose start waits in its poststart hook for the outcome, but not for the snapshot."""
    env.only_stasis()
    with Container(env, "tree") as c:
        crun = Crun(c)

        def change(config):
            config["mounts"] = [m for m in config["mounts"] if m["type"] != "cgroup"]
        try:
            for says in ("Snapshot taken", "Restored in place"):
                configure(c, "file=/data/go", change)
                (c.data / "go").unlink(missing_ok=True)
                crun("create", "--bundle", c.bundle, c.name, out=pathlib.Path("/dev/null"))
                crun("start", c.name)
                if says == "Snapshot taken":
                    c.ready()
                    (c.data / "go").touch()
                wait_for("the watcher's end", lambda: not watchers(c))
                expect(says in restore_log(c), restore_log(c))
                c.ask()
                crun("kill", c.name, "KILL")
                crun("delete", "-f", c.name)
        finally:
            crun("delete", "-f", c.name, ok=None)
    c.gone()
