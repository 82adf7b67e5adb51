"""What the hook leaves behind: it holds nothing of its caller's, and goes with what it was left for."""
import contextlib
import os
import pathlib
import re
import signal
import subprocess

from harness import expect, run, scenario, wait_for
from in_place import checkpointed, from_checkpoint, link_of, no_watcher, restore_log, watchers
from in_place_faults import refusal
from snapshot import configure


def ways(env, program="threads"):
    """A container that starts from a checkpoint, and one that takes a snapshot: name, function that
    configures it, directory that its watcher may hold files of."""
    c, image = checkpointed(env, program)
    return c, (("restore", lambda change: from_checkpoint(c, image, change), image),
               ("snapshot", lambda change: configure(c, "delay=60s", change), c.dir / "snapshot"))


def plain(c):
    """config.json as it is, to be put back."""
    text = (c.bundle / "config.json").read_text()
    return lambda: (c.bundle / "config.json").write_text(text)


@scenario
def in_place_watcher_holds(env):
    """Nothing of the runtime's or the hook's is open in it, however much they had inherited."""
    env.only_stasis()
    c, todo = ways(env)
    with c:
        reset = plain(c)
        inherited = c.dir / "inherited"
        inherited.write_text("the caller's")
        for _, arm, image in todo:
            reset()
            arm(lambda config: None)
            run("sh", "-c", 'exec 3<"$1" 7<"$1" 9<"$1"; shift; exec "$@" >/dev/null 2>&1', "sh", inherited, "runc",
                "create", "--preserve-fds", "1", "--bundle", c.bundle, c.name)
            watcher, = watchers(c)
            held = {int(fd): link_of(f"/proc/{watcher}/fd/{fd}") for fd in os.listdir(f"/proc/{watcher}/fd")}
            allowed = (re.escape("/dev/null"), rf"/run/stasis/{c.name}/restore\.log", rf"{image}(/.*)?",
                       r"anon_inode:\[pidfd\]", r"[a-z_]+:\[\d+\]")
            foreign = {fd: link for fd, link in held.items()
                       if not any(re.fullmatch(pattern, link) for pattern in allowed) or link.startswith(("pipe:", "socket:"))}
            expect(not foreign and {held[fd] for fd in range(3)} == {"/dev/null"}, f"it holds {held}")
            expect(os.readlink(f"/proc/{watcher}/cwd") == "/", "it stands in a directory")
            stat = pathlib.Path(f"/proc/{watcher}/stat").read_text().rsplit(")", 1)[1].split()
            expect((int(stat[2]), int(stat[3])) == (watcher, watcher), "it is of its caller's session")
            # What is preserved is for the program.
            expect(os.path.samefile(f"/proc/{c.init()}/fd/3", inherited), "fd 3 is gone")
            c.delete()
            no_watcher(c)
            c.gone()


@scenario
def in_place_create_fails(env):
    """A hook after ours that fails, and a runtime that is killed while it makes the container."""
    env.only_stasis()
    c, todo = ways(env)
    with c:
        reset = plain(c)
        for way, arm, _ in todo:
            reset()
            arm(lambda config: config["hooks"]["createRuntime"].append({"path": "/bin/false"}))
            refusal(c, "create", "--bundle", c.bundle, c.name)
            with contextlib.suppress(Exception):
                wait_for("the end", lambda: not watchers(c) and not c.leavings(), 5)
            expect(not watchers(c), f"{way}: a watcher is left")
            c.gone()

            mark = c.dir / "hook"
            mark.unlink(missing_ok=True)
            reset()
            arm(lambda config: config["hooks"]["createRuntime"].append(
                {"path": "/bin/sh", "args": ["sh", "-c", f"echo $$ >{mark}.new; mv {mark}.new {mark}; exec sleep 60"]}))
            runtime = subprocess.Popen(["runc", "create", "--bundle", c.bundle, c.name], stdin=subprocess.DEVNULL,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            wait_for("the other hook", mark.exists)
            expect(len(watchers(c)) == 1, f"{way}: watchers {watchers(c)}")
            runtime.kill()
            runtime.wait()
            os.kill(int(mark.read_text()), signal.SIGKILL)
            run("runc", "delete", "-f", c.name)
            no_watcher(c)
            # runc itself knows nothing of its cgroups any more.
            for directory, below, _ in os.walk("/sys/fs/cgroup"):
                if c.name in below:
                    os.rmdir(f"{directory}/{c.name}")
            with contextlib.suppress(Exception):
                wait_for("the end", lambda: not c.leavings(), 5)
            c.gone()
        reset()
        c.start()
        c.ask()
    c.gone()


@scenario
def in_place_stopped(env):
    """An init that is stopped before its start, and goes on: the start waits for that, and no longer."""
    env.only_stasis()
    c, todo = ways(env)
    with c:
        reset = plain(c)
        for way, arm, _ in todo:
            for name in ("STOP", "TSTP"):
                reset()
                arm(lambda config: None)
                c.runc("create", "--bundle", c.bundle, c.name)
                c.runc("kill", c.name, name)
                starts = subprocess.Popen(["runc", "start", c.name], stdin=subprocess.DEVNULL)
                if name == "STOP":
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        starts.wait(0.3)
                    expect(starts.poll() is None, f"{way}: the start didn't wait: {restore_log(c)}")
                    expect(len(watchers(c)) == 1, "the watcher has gone")
                c.runc("kill", c.name, "CONT")
                expect(starts.wait(20) == 0, f"{way}, {name}: the start failed: {restore_log(c)}")
                c.ready() if way == "snapshot" else None
                c.ask()
                c.delete()
                no_watcher(c)
                c.gone()
