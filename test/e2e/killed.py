"""A container that is killed while it is checkpointed: one clear error, and nothing is left of either."""
import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import time

import faults
from harness import Container, expect, scenario, wait_for
from in_place import restore_log, start, watchers
from mount_faults import stopped_engine
from snapshot import configure

PIDFD_GETFD, PROCESS_VM_WRITEV = 438, 311  # when descriptors are looked at; within a batch
COMPLAINT = "it was killed meanwhile"


def command(c, door, image):
    if door == "stasis":
        return [c.env.faults, "checkpoint", c.name, "--image", image]
    return ["runc", "--criu", c.env.faults, "checkpoint", "--image-path", image, "--work-path",
            c.dir / "work", c.name]


def nothing_left(c, image):
    left = [p for p in image.parent.glob(f".{image.name}.*")]
    if image.exists():
        left += image.glob("*.img")
    expect(not left, f"half an image is left: {left}")
    faults.no_engine_left(c.env)
    # runc deletes it itself.
    wait_for("the container's end", lambda: (c.state() or {"status": "stopped"})["status"] == "stopped", 5)
    c.delete()
    wait_for("the last traces to go", lambda: not c.leavings(), 5)


def at_a_call(door, call):
    @scenario(name=f"killed_at_{call}_{door}")
    def go(env):
        env = faults.engine(env)
        with Container(env, "threads", hooks=False) as c:
            c.start()
            image = c.dir / "image-killed"
            with subprocess.Popen([str(part) for part in command(c, door, image)], text=True,
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT,
                                  env={**os.environ, "STASIS_STOP_BEFORE": str(call)}) as process:
                try:
                    stopped = wait_for("the checkpoint to stop", lambda: stopped_engine(env.faults))
                    os.kill(c.init(), signal.SIGKILL)
                    os.kill(stopped, signal.SIGCONT)
                    said, _ = process.communicate(timeout=20)
                finally:
                    process.kill()
            expect(process.returncode == 1, f"exit code {process.returncode}: {said}")
            text = said if door == "stasis" else (c.dir / "work/dump.log").read_text()
            errors = [line for line in text.splitlines() if "cannot " in line]
            expect(len(errors) == 1 and COMPLAINT in errors[0], f"not one clear error:\n{text}")
            nothing_left(c, image)
        c.gone()


for _door in ("stasis", "runc"):
    for _call in (PIDFD_GETFD, PROCESS_VM_WRITEV):
        at_a_call(_door, _call)


@scenario
def killed_at_any_time(env):
    """By both doors, a tree whose init has to wait until all others have been reaped."""
    env = faults.engine(env)
    for turn in range(12):
        door = ("stasis", "runc")[turn % 2]
        with Container(env, "tree", "50", hooks=False) as c:
            c.start()
            image, init = c.dir / "image-killed", c.init()
            with subprocess.Popen([str(part) for part in command(c, door, image)],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL) as process:
                tracer = pathlib.Path(f"/proc/{init}/status")
                wait_for("the checkpoint's begin", lambda t=tracer: "TracerPid:\t0" not in t.read_text())
                time.sleep(turn * 0.003)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(init, signal.SIGKILL)
                try:
                    process.wait(20)
                finally:
                    process.kill()
            if process.returncode == 0:
                break  # it was quicker
            nothing_left(c, image)
    expect(turn > 2, "no checkpoint was interrupted")


@scenario
def killed_at_snapshot(env):
    """The watcher that takes the snapshot ends, too."""
    env = faults.engine(env)
    with Container(env, "threads") as c:
        def stop(config):
            for hook in config["hooks"]["createRuntime"]:
                hook["env"] = [f"STASIS_STOP_BEFORE={PROCESS_VM_WRITEV}"]
        configure(c, "delay=100ms", stop)
        start(c)
        c.ready()
        stopped = wait_for("the checkpoint to stop", lambda: stopped_engine(env.faults))
        expect(watchers(c) == [stopped], f"{stopped} isn't the watcher")
        os.kill(c.init(), signal.SIGKILL)
        os.kill(stopped, signal.SIGCONT)
        wait_for("the watcher's end", lambda: not watchers(c), 10)
        log = restore_log(c)
        expect(COMPLAINT in log and log.count("No snapshot") == 1, log)
        nothing_left(c, c.dir / "snapshot")
        shutil.rmtree(c.dir / "snapshot", ignore_errors=True)
    c.gone()
