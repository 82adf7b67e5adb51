"""Leave-running checkpoints whose memory is written from copies of the processes."""
import json
import os
import pathlib

from faults import FAIL, KILL, MANY, engine, fail_dumps
from harness import Container, expect, run, scenario, wait_for


def snapshot(c, image, how, env=None, ok=True):
    """What the command tells; None where it failed."""
    result = run(c.env.stasis, "checkpoint", c.name, "--image", image, "--leave-running",
                 f"--snapshot={how}", "--json", env=env, ok=ok)
    return json.loads(result.stdout) if result.returncode == 0 else None


def no_strays(c, processes):
    """The container has as many processes as it had, zombies and all."""
    root = os.stat(f"/proc/{c.init()}/ns/pid").st_ino

    def inside():
        found = 0
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                found += os.stat(f"/proc/{pid}/ns/pid_for_children").st_ino == root
            except OSError:  # of a zombie only its parent tells
                try:
                    status = pathlib.Path(f"/proc/{pid}/status").read_text()
                    levels = next(l for l in status.splitlines() if l.startswith("NSpid:")).split()
                    parent = next(l for l in status.splitlines() if l.startswith("PPid:")).split()[1]
                    found += len(levels) > 2 and os.stat(f"/proc/{parent}/ns/pid").st_ino == root
                except OSError:
                    pass
        return found
    wait_for("the copies to go", lambda: inside() == processes, 5)


def there_and_back(env, *args, processes):
    with Container(env, "moment", *args) as c:
        c.start()
        for turn, how in enumerate(("fork", "auto", "plain")):
            image = c.dir / f"image-{turn}"
            told = snapshot(c, image, how)
            expect(told["snapshot"] == ("plain" if how == "plain" else "fork"), f"{how}: {told}")
            no_strays(c, processes)
            c.ask()
        for turn in (0, 1):  # twice from each: it has run since
            for _ in range(2):
                c.goes_back_to(c.dir / f"image-{turn}")
        c.comes_back(c.observe())


@scenario
def fork_snapshot(env):
    """Threads that write all the time: private, shared, DONTFORK and WIPEONFORK memory is of one moment."""
    env.only_stasis()
    there_and_back(env, "48", processes=1)


@scenario
def fork_snapshot_pair(env):
    """Two processes and the pipe between them are of one moment."""
    env.only_stasis()
    there_and_back(env, "48", "pair", processes=2)


@scenario
def fork_snapshot_advice(env):
    """Flags of memory that change just then are as they were at the freeze, whatever was seen before it."""
    env.only_stasis()
    with Container(env, "moment", "96", "advice") as c:
        c.start()
        images, changed = [], []
        for turn in range(60):  # until a change has met a dump
            image = c.dir / f"image-{turn}"
            expect(snapshot(c, image, "fork")["snapshot"] == "fork", "not copied")
            no_strays(c, 1)
            (changed if "once more" in (image / "dump.log").read_text() else images).append(image)
            if turn >= 7 and changed:
                break
        c.ask()
        expect(changed, "nothing changed meanwhile: is anything foreseen?")
        for image in images[:4] + changed[:4]:
            c.goes_back_to(image)


@scenario
def fork_snapshot_drop_in(env):
    """runc checkpoint --leave-running, whose statistics tell the truth."""
    env.only_stasis()
    with Container(env, "moment", "48") as c:
        c.start()
        image = c.checkpoint("--leave-running")
        log = (c.work_dir / "dump.log").read_text()
        expect("of 1 processes, written from copies" in log, log[-2000:])
        no_strays(c, 1)
        c.ask()
        c.goes_back_to(image, door="runc")


@scenario
def fork_snapshot_refused(env):
    """Where limits leave no room the plain way is taken, and nobody is killed."""
    env.only_stasis()
    mib = 1 << 20
    for limit, why in ((f"--memory={90 * mib}", "memory limit"),
                       ("--pids-limit=4", "limit of processes")):
        with Container(env, "moment", "48") as c:
            c.start()
            run("runc", "update", limit, c.name)  # that many threads it has
            for how in ("fork", "auto"):
                image = c.dir / f"image-{how}"
                told = snapshot(c, image, how)
                expect(told["snapshot"] == "plain" and why in told["plainBecause"], str(told))
                expect(why in (image / "dump.log").read_text(), "the log doesn't tell")
                no_strays(c, 1)
                c.ask()
            c.comes_back(c.observe(), ignore=("/limits",))
        c.gone()


def sweep(env, how, wanted):
    env = engine(env)
    with Container(env, "moment", "8", hooks=False) as c:
        c.start()
        fail_dumps(c, how, wanted, lambda image, e, ok: snapshot(c, image, "fork", e, ok),
                   look=lambda: no_strays(c, 1))
        image = c.dir / "image-last"
        expect(snapshot(c, image, "fork")["snapshot"] == "fork", "it can't be copied any more")
        c.goes_back_to(image, door="runc")


for _how, _word in ((FAIL, "fail"), (KILL, "kill")):
    scenario(lambda env, how=_how: sweep(env, how, 60), name=f"fork_snapshot_{_word}", seconds=300)
    scenario(lambda env, how=_how: sweep(env, how, MANY), label="long",
             name=f"fork_snapshot_{_word}_many", seconds=3600)
