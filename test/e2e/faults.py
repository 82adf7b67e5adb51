"""Safe to fail: the Nth kernel call of a dump or a restore fails, or the engine is killed there.

After a dump that failed the container goes on unharmed, and no image looks valid. After a restore
that failed nothing is left behind, and the same image restores afterwards.
"""
import os
import pathlib
import shutil

from harness import Container, Failure, Skip, expect, scenario, wait_for

FAIL, KILL = "STASIS_FAIL_AT", "STASIS_KILL_AT"
SAMPLE = 40  # points of a sweep in the quick check
MANY = 250  # of one in the long check, for what the programs that are swept everywhere don't show
EVERYWHERE = 10**9


def engine(env):
    if not env.faults or not os.path.exists(env.faults):
        raise Skip("needs a build with fault injection")
    return env.with_engine(env.faults)


def spread(count, wanted):
    """That many of 1..count, evenly, or all; the first and last dozen matter most and are in."""
    if wanted >= count:
        return list(range(1, count + 1))
    step = count / wanted
    return sorted({1, 2, 3, count, count - 1} | {1 + int(i * step) for i in range(wanted)})


def count_calls(c, action):
    path = c.dir / "count"
    action({"STASIS_COUNT_FILE": str(path)})
    expect(path.exists(), "this build counts no kernel calls: STASIS_FAULTS is off in it")
    return int(path.read_text())


def no_engine_left(env):
    """No process of the engine survives the command that ran it."""
    def running():
        return [pid for pid in filter(str.isdigit, os.listdir("/proc")) if exe(pid) == env.faults]
    wait_for("the engine's processes to end", lambda: not running(), 5)


def exe(pid):
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


def fail_dumps(c, how, wanted, dump, look=lambda: None):
    """`dump(image, env, ok)` leaves the container running, each time with another fault; whatever
    comes of it the container is unharmed, as `look` may find too."""
    count = count_calls(c, lambda e: dump(c.dir / "image-counted", e, True))
    c.ask()
    failed, points = 0, spread(count, wanted)
    for n in points:
        image = c.dir / "image-faulty"
        shutil.rmtree(image, ignore_errors=True)
        try:
            dump(image, {how: str(n)}, None)
            valid = (image / "inventory.img").exists()
            failed += not valid
            no_engine_left(c.env)
            expect(c.state()["status"] == "running", f"the container is {c.state()['status']}")
            look()
            c.ask(10)
            if how == FAIL and not valid:
                left = [p.name for p in image.glob("*.img")] if image.exists() else []
                expect(not left, f"half an image is left: {left}")
        except Failure as failure:
            raise Failure(f"{how}={n} of {count}, {' '.join((c.program, *c.args))}: {failure}") from None
    expect(failed > len(points) // 4, f"only {failed} of the dumps failed: is anything injected?")


def sweep_dump(env, program, how, wanted, kind=Container):
    env = engine(env)
    with kind(env, *program.split(), hooks=False) as c:
        c.start()
        before = c.observe()
        fail_dumps(c, how, wanted, lambda image, e, ok:
                   c.checkpoint("--leave-running", image=image, ok=ok, env=e))
        c.same_as(before)
        # And after all that it can still be checkpointed and restored.
        image = c.checkpoint()
        c.restore(image)
        c.same_as(before)
        c.ask()


def sweep_restore(env, program, how, wanted, kind=Container):
    env = engine(env)
    with kind(env, *program.split(), hooks=False) as c:
        c.start()
        before = c.observe()
        image = c.checkpoint()
        kept = c.dir / "data-at-checkpoint"
        shutil.copytree(c.data, kept)

        def restore(e, ok=None):
            for path in filter(pathlib.Path.is_file, kept.iterdir()):  # as they were; same inodes
                shutil.copyfile(path, c.data / path.name)
            c.restore(image, ok=ok, env=e)

        count = count_calls(c, restore)
        c.ask()
        failed, points = 0, spread(count, wanted)
        for n in points:
            c.delete()
            c.nothing_left()
            try:
                restore({how: str(n)})
                state = c.state()
                if state and state["status"] == "running":
                    c.ask(10)
                    continue
                failed += 1
                no_engine_left(env)
                c.delete()
                c.nothing_left()
            except Failure as failure:
                raise Failure(f"{how}={n} of {count}, {program}: {failure}") from None
        expect(failed > len(points) // 4, f"only {failed} of the restores failed: is anything injected?")
        c.delete()
        restore({}, ok=True)
        c.same_as(before)
        c.ask()


def register(kind, sweep, how, program):
    word = ("fail_" if how == FAIL else "kill_") + program.split()[0]

    @scenario(name=f"{kind}_{word}", seconds=300)
    def some(env):
        sweep(env, program, how, SAMPLE)

    everywhere = program in ("counter", "threads")

    @scenario(name=f"{kind}_{word}_{'everywhere' if everywhere else 'many'}", label="long", seconds=3600)
    def more(env):
        sweep(env, program, how, EVERYWHERE if everywhere else MANY)


for _program in ("counter", "threads", "sysv", "unix_sockets steady"):
    for _how in (FAIL, KILL):
        register("dump", sweep_dump, _how, _program)
        register("restore", sweep_restore, _how, _program)
for _how in (FAIL, KILL):  # memory is filled while the tree grows
    register("restore", sweep_restore, _how, "prefork")
for _program in ("memfd", "handles searched"):
    register("dump", sweep_dump, FAIL, _program)
    register("restore", sweep_restore, FAIL, _program)
