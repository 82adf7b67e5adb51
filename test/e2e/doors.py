"""What people and runtimes call: the stasis commands and the hook."""
import json
import os
import pathlib
import stat
import subprocess

from harness import Container, Skip, expect, run, scenario, wait_for


def record_of(c):
    return pathlib.Path(f"/run/stasis/{c.name}/mountmap.json")


@scenario
def commands(env):
    """stasis plan, checkpoint and restore; a checkpoint takes the place of an older one."""
    env.only_stasis()
    with Container(env, "counter") as c:
        c.start()
        before = c.observe()
        expect("/etc/hosts" in c.stasis("plan", c.name).stdout, "the plan doesn't name /etc/hosts")
        image = c.checkpoint(door="cli")
        c.gone()
        c.restore(image, door="cli").same_as(before).ask()
        image = c.checkpoint("--leave-running", door="cli")
        c.ask()
        c.stasis("checkpoint", c.name, "--image", image)
        c.gone()
        c.restore(image, door="cli").same_as(before).ask()


@scenario
def plan(env):
    """The plan names every mount rightly, as a table and as JSON, and changes nothing."""
    env.only_stasis()
    with Container(env, "counter") as c:
        c.start()
        before = c.observe()
        table = c.stasis("plan", c.name).stdout
        document = json.loads(c.stasis("plan", "--json", c.name).stdout)
        by_pid = c.stasis("plan", "--pid", c.init()).stdout
        by_bundle = c.stasis("plan", "--bundle", c.bundle).stdout
        points = [line.split(" ")[4] for line in
                  pathlib.Path(f"/proc/{c.init()}/mountinfo").read_text().splitlines()]
        for point in points:
            expect(point in table, f"{point} isn't in the table:\n{table}")
            expect(f'"{point}"' in json.dumps(document), f"{point} isn't in the JSON")
        for text in (by_pid, by_bundle):
            expect("/etc/hosts" in text and "/data" in text, f"incomplete:\n{text}")
        c.same_as(before)


@scenario
def plan_names_obstacles(env):
    """A process that came by `runc exec` is named, and the exit code tells."""
    env.only_stasis()
    with Container(env) as c:
        c.start()
        expect(run(env.stasis, "plan", c.name, ok=None).returncode == 0, "plan says no")
        guest = subprocess.Popen(["runc", "exec", c.name, "/bin/sleep", "1234"],
                                 stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL)
        try:
            def table():
                return run(env.stasis, "plan", c.name, ok=None)
            wait_for("the plan to name it", lambda: "sleep" in table().stdout, 5)
            expect(table().returncode == 1, "the exit code says it can be checkpointed")
            expect(run(env.stasis, "checkpoint", c.name, "--image", c.dir / "no", ok=False), "")
            count = len(c.numbers())
            wait_for("the container to go on", lambda: len(c.numbers()) > count + 2)
        finally:
            guest.kill()
            guest.wait()


@scenario
def unknown_container(env):
    """One clear line for a container that isn't there."""
    env.only_stasis()
    for command in ("plan", "checkpoint", "restore"):
        result = run(env.stasis, command, "no-such-container", ok=False)
        lines = result.stderr.strip().splitlines()
        expect(result.returncode == 1 and 1 <= len(lines) <= 2 and "no-such-container" in lines[0],
               f"{command}: {result.returncode} {result.stderr}")


@scenario
def hook(env):
    """The hooks of a container's life: the record comes, stays over a restore, goes at the end."""
    env.only_stasis()
    with Container(env, "counter") as c:
        c.start()
        record = record_of(c)
        expect(record.exists(), "createRuntime kept no record")
        expect(stat.S_IMODE(record.stat().st_mode) == 0o600, "the record isn't 0600")
        expect(json.loads(record.read_text()), "an empty record")
        image = c.checkpoint()
        c.gone()
        c.restore(image)
        expect(record.exists(), "no record after the restore")
        c.ask()
    expect(not record.parent.exists(), "poststop left the record")


@scenario
def hook_by_hand(env):
    """The hook again and again, and with wrong input: one line on stderr, non-zero."""
    env.only_stasis()
    with Container(env, "counter") as c:
        c.start()
        state = json.dumps({"ociVersion": "1.0.2", "id": c.name, "status": "created",
                            "pid": c.init(), "bundle": str(c.bundle)})

        def call(phase, text, **keywords):
            return subprocess.run([env.stasis, "hook", phase], input=text, text=True, check=False,
                                  capture_output=True, timeout=20, **keywords)
        for _ in range(3):
            for phase in ("createRuntime", "prestart", "poststart"):
                result = call(phase, state, cwd="/", env={})
                expect(result.returncode == 0, f"{phase}: {result.stderr}")
        wrong = {"a phase of its own": ("createEverything", state), "no state": ("createRuntime", ""),
                 "no JSON": ("createRuntime", "{"),
                 "a bundle that isn't there": ("createRuntime", state.replace(str(c.bundle), "/none")),
                 "an id that climbs": ("createRuntime", state.replace(c.name, "../../etc"))}
        for what, (phase, text) in wrong.items():
            result = call(phase, text)
            lines = result.stderr.strip().splitlines()
            expect(result.returncode != 0 and len(lines) == 1, f"{what}: {result.returncode} {lines}")
        result = subprocess.run([env.stasis, "hook", "createRuntime"], stdin=subprocess.DEVNULL,
                                capture_output=True, text=True, check=False, timeout=20)
        expect(result.returncode != 0 and result.stderr, "no stdin is no error")
        stopped = state.replace('"created"', '"stopped"')
        for _ in range(2):
            expect(call("poststop", stopped).returncode == 0, "poststop twice")
        expect(not record_of(c).exists(), "poststop left the record")
        c.ask()


@scenario
def check_command(env):
    """stasis check says what the kernel offers."""
    env.only_stasis()
    result = run(env.stasis, "check", ok=None)
    expect(result.returncode == 0 and "listmount" in result.stdout, result.stdout + result.stderr)


@scenario
def other_runc_root(env):
    """A container of another runc --root."""
    env.only_stasis()
    with Container(env, "counter") as c:
        root = c.dir / "runc-root"
        c.runc("--root", root, "run", "-d", "--bundle", c.bundle, c.name)
        c.ready()
        try:
            c.stasis("plan", "--root", root, c.name)
            image = c.dir / "image"
            c.stasis("checkpoint", "--root", root, c.name, "--image", image)
            c.stasis("restore", "--root", root, c.name, "--image", image, "--bundle", c.bundle)
            c.ask()
        finally:
            run("runc", "--root", root, "delete", "-f", c.name, ok=None)


@scenario
def other_runc_root_replaced(env):
    """What config.json tells of a file that was replaced is found for such a container, too."""
    env.only_stasis()
    with Container(env, "counter", hooks=False) as c:
        root = c.dir / "runc-root"
        try:
            c.runc("--root", root, "run", "-d", "--bundle", c.bundle, c.name)
            c.ready()
            resolv = c.bundle / "etc/resolv.conf"
            (c.bundle / "etc/new").write_text("nameserver 10.9.9.9\n")
            (c.bundle / "etc/new").rename(resolv)
            c.runc("--root", root, "checkpoint", "--image-path", c.dir / "image", "--work-path",
                   c.dir / "work", c.name)
            c.runc("--root", root, "restore", "-d", "--image-path", c.dir / "image", "--work-path",
                   c.dir / "work", "--bundle", c.bundle, c.name)
            c.ask()
            run("runc", "--root", root, "exec", c.name, "/bin/grep", "10.9.9.9", "/etc/resolv.conf")
            said = run(env.stasis, "plan", c.name, ok=False).stderr
            expect("another state directory is given by --root" in said, said)
        finally:
            run("runc", "--root", root, "delete", "-f", c.name, ok=None)
    c.gone()


@scenario
def sanitized(env):
    """The engine built with sanitizers, through all doors; it reports nothing."""
    if not env.asan or not os.path.exists(env.asan):
        raise Skip("needs a build with sanitizers")
    env = env.with_engine(env.asan)
    for program in ("memory", "threads", "tree", "files", "pipes", "signals"):
        with Container(env, program) as c:
            c.start()
            reports = c.dir / "sanitizer"
            options = f"log_path={reports}:exitcode=99"
            os.environ.update(ASAN_OPTIONS=options + ":detect_leaks=0", UBSAN_OPTIONS=options)
            try:
                for door in ("runc", "cli"):
                    c.restore(c.checkpoint(door=door), door=door).ask()
            finally:
                text = "".join(p.read_text() for p in c.dir.glob("sanitizer*"))
                expect(not text, f"the sanitizer says:\n{text[:4000]}")
                for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS"):
                    del os.environ[name]
