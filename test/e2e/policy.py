"""The policy file: what its rules make of a container's mounts."""
import contextlib
import fcntl
import json
import os
import pathlib
import socket

from harness import Container, Failure, expect, run, scenario, wait_for

MACHINE = pathlib.Path("/etc/stasis/policy.yaml")


@contextlib.contextmanager
def machine_policy(text):
    """The machine's policy for a while. Other tests go on: its rules must name destinations that none of
    them has, and checkpoints may lie where they may without a policy."""
    with open("/tmp/stasis-test-policy.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = not MACHINE.parent.exists()
        MACHINE.parent.mkdir(exist_ok=True)
        if MACHINE.exists():
            raise Failure(f"there is a {MACHINE} already")
        try:
            fresh = MACHINE.with_name(".policy.yaml.test")
            fresh.write_text(text.rstrip("\n") + "\ncheckpoints: [/var/lib/stasis/checkpoints, /tmp]\n")
            fresh.rename(MACHINE)
            yield
        finally:
            MACHINE.unlink(missing_ok=True)
            if made:
                with contextlib.suppress(OSError):
                    MACHINE.parent.rmdir()


def write_policy(container, text):
    path = container.dir / "policy.yaml"
    path.write_text(text)
    return path


def with_volume(config):
    add = config["mounts"].append
    add({"destination": "/volume", "type": "bind", "source": "volume", "options": ["rbind"]})
    add({"destination": "/part", "type": "bind", "source": "volume/part", "options": ["rbind", "ro"]})
    add({"destination": "/gone", "type": "bind", "source": "gone", "options": ["bind"]})


def volume_container(env, **keywords):
    c = Container(env, "counter", change=with_volume, **keywords)
    (c.bundle / "volume/part").mkdir(parents=True)
    (c.bundle / "volume/file").write_text("from the host")
    (c.bundle / "volume/part/deep").write_text("deep")
    (c.bundle / "gone").write_text("a file that goes away")
    return c


def in_root(container, path):
    return pathlib.Path(f"/proc/{container.init()}/root/{path}")


def rows(container, policy):
    trial = ["--policy", policy] if policy else []
    plan = container.stasis("plan", container.name, "--json", *trial, ok=None)
    return json.loads(plan.stdout)


CONTENT = """
rules:
  - destination: [/volume, /part, /gone]
    action: content
    why: the other site has none
"""


@scenario
def policy_content(env):
    """A bound directory, a part of it and a file whose source is gone are taken into the image."""
    env.only_stasis()
    with volume_container(env) as c:
        c.start()
        (c.bundle / "gone").unlink()
        plan = rows(c, write_policy(c, "rules: []\n"))
        expect(not plan["checkpointable"], "a source that is gone is no obstacle")
        policy = write_policy(c, CONTENT)
        expect(rows(c, policy)["checkpointable"], rows(c, policy)["findings"])
        image = c.checkpoint("--policy", policy, door="stasis")
        c.gone()
        (c.bundle / "volume/file").write_text("changed on the host")
        (c.bundle / "gone").write_text("another one")
        c.restore(image)
        expect(in_root(c, "volume/file").read_text() == "from the host", "the volume is the host's")
        expect(in_root(c, "part/deep").read_text() == "deep", "no part")
        expect(in_root(c, "gone").read_text() == "a file that goes away", "another file")
        expect(os.statvfs(in_root(c, "part")).f_flag & os.ST_RDONLY, "the part can be written")
        in_root(c, "volume/part/deep").write_text("written")
        expect(in_root(c, "part/deep").read_text() == "written", "the part is a copy of its own")
        expect((c.bundle / "volume/part/deep").read_text() == "deep", "the host's was written")
        c.ask()
        # And once more: by now they are the container's own.
        c.restore(c.checkpoint("--policy", policy, door="stasis"))
        expect(in_root(c, "gone").read_text() == "a file that goes away", "another file")
        expect(in_root(c, "part/deep").read_text() == "written", "the second time")
        c.ask()


@scenario
def policy_content_in_use(env):
    """Files that are open on a volume whose data is taken, one of them deleted, go on there."""
    env.only_stasis()

    def change(config):
        config["mounts"].append({"destination": "/volume", "type": "bind", "source": "volume",
                                 "options": ["rbind"]})
        config["process"]["args"] = ["/bin/sh", "-c", "exec 3>>/volume/log 4</volume/gone; "
                                     "rm /volume/gone; cd /volume/deep; "
                                     "while :; do echo tick >&3; sleep 0.02; done"]
    c = Container(env, change=change)
    (c.bundle / "volume/deep").mkdir(parents=True)
    (c.bundle / "volume/gone").write_text("deleted but open")
    with c:
        c.runc("run", "-d", "--bundle", c.bundle, c.name)
        log = c.bundle / "volume/log"
        wait_for("ticks", lambda: log.exists() and log.stat().st_size > 20)
        policy = write_policy(c, "rules: [{destination: /volume, action: content}]\n")
        image = c.checkpoint("--policy", policy, door="stasis")
        stood = log.stat().st_size
        c.restore(image)
        wait_for("more ticks", lambda: in_root(c, "volume/log").stat().st_size > stood + 10)
        expect(log.stat().st_size == stood, "the host's file was written")
        expect(set(in_root(c, "volume/log").read_text().split()) == {"tick"}, "a broken log")
        gone = pathlib.Path(f"/proc/{c.init()}/fd/4")
        expect(gone.read_text() == "deleted but open", "another deleted file")
        expect(os.readlink(f"/proc/{c.init()}/cwd") == "/volume/deep", "another directory")


MACHINE_RULES = """
rules:
  - {{destination: /policy-anew, action: recreate}}
  - {{destination: /policy-own, action: recreate}}
  - {{destination: /policy-left, action: skip}}
  - {{destination: /policy-data, action: content}}
  - destination: [/policy-there, /policy-cache]
    remap: {base}/{{id}}{{destination}}
"""


def with_policy_mounts(shm):
    def change(config):
        def bind(destination, source):
            config["mounts"].append({"destination": destination, "type": "bind", "source": source,
                                     "options": ["rbind"]})

        def tmpfs(destination):
            config["mounts"].append({"destination": destination, "type": "tmpfs",
                                     "source": "tmpfs", "options": ["size=1m", "mode=750"]})
        bind("/policy-anew", str(shm))
        bind("/policy-left", "here")
        tmpfs("/policy-left/below")
        bind("/policy-data", "here")
        bind("/policy-there", "here")
        tmpfs("/policy-cache")
        tmpfs("/policy-own")
    return change


@contextlib.contextmanager
def host_tmpfs(path):
    path.mkdir(parents=True)
    run("mount", "-t", "tmpfs", "-o", "mode=711,size=2m", "tmpfs", path)
    try:
        yield path
    finally:
        run("umount", "-l", path)


@scenario
def policy_of_the_machine(env):
    """/etc/stasis/policy.yaml decides in a checkpoint and a restore that runc asks for."""
    env.only_stasis()
    with host_tmpfs(env.work / "shm") as shm:
        c = Container(env, "counter", change=with_policy_mounts(shm))
        _machine_policy_holds(c, shm)


def _machine_policy_holds(c, shm):
    here, base = c.bundle / "here", c.dir / "there"
    (here / "below").mkdir(parents=True)
    (here / "file").write_text("here")
    (shm / "file").write_text("of the host")
    for name in ("policy-there", "policy-cache"):
        (base / c.name / name).mkdir(parents=True)
        (base / c.name / name / "file").write_text("there")
    with c, machine_policy(MACHINE_RULES.format(base=base)):
        c.start()
        for name in ("policy-cache", "policy-own"):
            in_root(c, name).joinpath("file").write_text("lost")
        plan = rows(c, None)
        verdicts = {m["mountpoint"]: m.get("action") for m in plan["mounts"]}
        expect(verdicts["/policy-left"] == verdicts["/policy-left/below"] == "skip", verdicts)
        record = json.loads(pathlib.Path(f"/run/stasis/{c.name}/mountmap.json").read_text())
        verdicts = {m["mountpoint"]: m.get("action") for m in record["mounts"]}
        expect(verdicts["/policy-data"] == "content", "the hook passes the policy over")
        c.restore(c.checkpoint())
        c.ask()
        expect(in_root(c, "policy-data/file").read_text() == "here", "no content")
        in_root(c, "policy-data/file").write_text("its own")
        expect((here / "file").read_text() == "here", "the content is no copy")
        for name in ("policy-anew", "policy-own", "policy-left"):
            expect(not os.listdir(in_root(c, name)), f"/{name} isn't empty")
        expect(os.stat(in_root(c, "policy-anew")).st_mode & 0o777 == 0o711, "another mode")
        mounts = pathlib.Path(f"/proc/{c.init()}/mountinfo").read_text()
        expect("/policy-left" not in mounts, "the skipped mount is there")
        for name in ("policy-there", "policy-cache"):
            expect(in_root(c, f"{name}/file").read_text() == "there", f"/{name} isn't remapped")
        in_root(c, "policy-anew/file").write_text("new")
        expect((shm / "file").read_text() == "of the host", "the host's tmpfs was written")
        # And once more, through stasis itself.
        c.restore(c.checkpoint(door="stasis"), door="stasis").ask()
        expect(in_root(c, "policy-cache/file").read_text() == "there", "/policy-cache moved")
        expect(in_root(c, "policy-data/file").read_text() == "its own", "the content is lost")


@scenario
def policy_refuses(env):
    """What a rule refuses, or can't do, is no checkpoint through any door, and nothing is frozen."""
    env.only_stasis()

    def change(config):
        for name in ("refused", "socket"):
            config["mounts"].append({"destination": f"/policy-{name}", "type": "bind",
                                     "source": name, "options": ["rbind"]})
    c = Container(env, "counter", change=change)
    (c.bundle / "refused").mkdir()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(c.bundle / "socket"))
    with c:
        c.start()
        before = c.observe()
        with machine_policy("rules: [{destination: /policy-refused, action: refuse, "
                            "why: it is locked to this host}]"):
            c.checkpoint(ok=False)
            expect("locked to this host" in c.engine_logs(), c.engine_logs())
            result = run(c.env.stasis, "checkpoint", c.name, "--image", c.dir / "image", ok=False)
            expect("locked to this host" in result.stderr, result.stderr)
        for rules, words in (
                ("[{destination: /policy-socket, action: content}]", "is a socket"),
                ("[{destination: /proc, action: content}]", "of type proc"),
                ("[{destination: /etc/hosts, action: recreate}]", "nothing to make anew"),
                ("[{destination: /policy-refused, remap: '/x/{pod}'}]", "{pod}"),
                ("[{destination: /data, action: content}]\nsize_limit: 4", "size_limit")):
            policy = write_policy(c, f"rules: {rules}\n")
            result = c.stasis("checkpoint", c.name, "--image", c.dir / "image", "--policy", policy,
                              ok=None)
            expect(result.returncode and words in result.stderr, f"{rules}: {result.stderr}")
            expect(not rows(c, policy)["checkpointable"], f"plan sees nothing wrong with {rules}")
        c.same_as(before).ask()
    listener.close()


@scenario
def policy_file_faults(env):
    """A policy that is wrong, or that others could have written, is refused by file and line."""
    env.only_stasis()
    with Container(env, "counter") as c:
        c.start()
        image = c.dir / "image"
        for text, words in (("rules:\n  - destination: /data\n    acton: skip\n", ":3:5: unknown key"),
                            ("rules: [{destination: /data, action: jump}]\n", ":1:38: unknown action"),
                            ("rules: [\n", "policy.yaml:2:1"),
                            ("ghost_limit: [1]\n", ":1:14: expected a text")):
            policy = write_policy(c, text)
            for command in (["plan", c.name], ["checkpoint", c.name, "--image", image]):
                result = c.stasis(*command, "--policy", policy, ok=False)
                expect(words in result.stderr, f"{result.stderr} lacks {words}")
        policy = write_policy(c, "rules: []\n")
        policy.chmod(0o666)
        c.stasis("plan", c.name, "--policy", policy)  # to try it is no risk
        result = c.stasis("checkpoint", c.name, "--image", image, "--policy", policy, ok=False)
        expect("others than root may write" in result.stderr, result.stderr)
        policy.chmod(0o644)
        os.chown(policy, 1, 1)
        result = c.stasis("checkpoint", c.name, "--image", image, "--policy", policy, ok=False)
        expect("doesn't belong to root" in result.stderr, result.stderr)
        c.ask()


@scenario
def policy_kernel_file_systems(env):
    """What the kernel makes comes back anew; what would lose its content only where a rule says so."""
    env.only_stasis()
    kinds = ("debugfs", "tracefs", "securityfs", "fusectl", "binfmt_misc", "pstore")
    emptied = ("hugetlbfs", "ramfs")
    with Container(env, "counter", hooks=False) as c:
        c.start()
        mounted = []
        for kind in kinds + emptied:
            inside = ["nsenter", "-t", str(c.init()), "-m", "-p", "--"]
            run(*inside, "mkdir", f"/tmp/{kind}")
            if run(*inside, "mount", "-t", kind, "none", f"/tmp/{kind}", ok=None).returncode == 0:
                mounted.append(kind)
        expect(set(mounted) >= {"debugfs", "ramfs"}, f"only {mounted} can be mounted here")
        run(*inside, "touch", "/tmp/ramfs/file")
        plan = c.stasis("plan", c.name, ok=False).stdout
        expect("can't be mounted anew" in plan and "recreate" in plan, plan)
        policy = write_policy(c, f"rules: [{{type: [{', '.join(emptied)}], action: recreate}}]\n")
        before = c.observe()
        c.restore(c.checkpoint("--policy", policy, door="stasis")).same_as(before)
        expect(not os.listdir(in_root(c, "tmp/ramfs")), "the ramfs isn't empty")
        c.ask()
