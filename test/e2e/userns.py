"""Containers with a user namespace of their own: root inside is nobody's root outside."""
import os
import pathlib

import faults
from harness import Container, Skip, expect, run, scenario, wait_for
from nested_mounts import may_mount
from scenarios import more_caps, round_trip

UIDS, GIDS = 100000, 200000


def map_users(config, uids=UIDS, gids=GIDS):
    linux = config["linux"]
    linux["namespaces"].append({"type": "user"})
    linux["uidMappings"] = [{"containerID": 0, "hostID": uids, "size": 65536}]
    linux["gidMappings"] = [{"containerID": 0, "hostID": gids, "size": 65536}]


def hand_over(c):
    """The bundle belongs to the container's root."""
    c.env.work.chmod(0o711)
    for directory, names, files in os.walk(c.bundle):
        for name in [".", *names, *files]:
            os.lchown(os.path.join(directory, name), UIDS, GIDS)


class Mapped(Container):
    """A container whose root is uid UIDS of the host, to whom its bundle belongs."""

    def __init__(self, env, program=None, *args, change=lambda config: None, **keywords):
        def mapped(config):
            map_users(config)
            change(config)
        super().__init__(env, program, *args, change=mapped, **keywords)
        hand_over(self)

    def observe(self):
        view = super().observe()
        init = f"/proc/{self.init()}"
        view["users"] = {name: pathlib.Path(f"{init}/{name}").read_text().split()
                         for name in ("uid_map", "gid_map", "setgroups")}
        return view


def program_scenario(program, door="runc", **keywords):
    @scenario(name=f"userns_{program}" + ("" if door == "runc" else "_own_door"))
    def go(env):
        round_trip(env, Mapped(env, program, **keywords), door=door)


for _program in ("counter", "files", "limits", "memory", "signals", "sysv", "threads", "tree"):
    program_scenario(_program)
program_scenario("confined", change=more_caps)
program_scenario("threads", door="stasis")


def tenant_caps(config):
    for kind in ("bounding", "effective", "permitted"):
        config["process"]["capabilities"][kind] += [
            "CAP_SETUID", "CAP_SETGID", "CAP_CHOWN", "CAP_FOWNER", "CAP_SETFCAP", "CAP_DAC_OVERRIDE"]


program_scenario("nested", change=may_mount)
program_scenario("owners", change=tenant_caps)
program_scenario("owners", door="stasis", change=tenant_caps)


@scenario
def userns_overmounts(env):
    """What lies beneath other mounts is found and comes back in a user namespace, too."""
    env.only_stasis()
    with Mapped(env, "hidden") as c:
        c.start()
        over = ("mount", "-t", "tmpfs", "-o", "size=1m,uid=5", "over")
        for command in ((*over, "/tmp/under"), (*over, "/tmp/under"), ("touch", "/tmp/under/dir"),
                        ("mount", "--bind", "/sys", "/sys")):
            run("nsenter", "-t", c.init(), "-U", "-m", "busybox", *command)
        c.ask()
        c.comes_back(c.observe(), times=2)


class Volume:
    """A tmpfs of the host, mounted with restrictions."""

    def __init__(self, env, options):
        self.path = env.work / "volume"
        self.path.mkdir()
        run("mount", "-t", "tmpfs", "-o", f"uid={UIDS},gid={GIDS},{options}", "volume", self.path)

    def __enter__(self):
        return self.path

    def __exit__(self, *_):
        run("umount", "-l", self.path)


def bind(source):
    return lambda config: config["mounts"].append({
        "destination": "/tmp/volume", "type": "bind", "source": str(source), "options": ["rbind"]})


def mount_of(container, point):
    for line in pathlib.Path(f"/proc/{container.init()}/mountinfo").read_text().splitlines():
        if line.split()[4] == point:
            return line.split()[5].split(",")
    return []


@scenario
def userns_locked_flags(env):
    """What the host forbids on a mount stays forbidden to the container's root."""
    env.only_stasis()

    def cannot_loosen(c):
        run("nsenter", "-t", c.init(), "-U", "-m", "busybox", "mount", "-o", "remount,bind,rw,dev",
            "/tmp/volume", ok=False)
        expect("nodev" in mount_of(c, "/tmp/volume"), f"flags are {mount_of(c, '/tmp/volume')}")

    with Volume(env, "nosuid,nodev") as volume, Mapped(env, "counter", change=bind(volume)) as c:
        c.start()
        cannot_loosen(c)
        before = c.observe()
        image = c.checkpoint()
        c.gone()
        c.restore(image).same_as(before)
        cannot_loosen(c)
        image = c.checkpoint()
        run("mount", "-o", "remount,bind,nosuid,nodev,noexec", volume)
        c.restore(image).ask()
        expect("noexec" in mount_of(c, "/tmp/volume"), f"flags are {mount_of(c, '/tmp/volume')}")


@scenario
def userns_locked_mounts(env):
    """What came with a recursive bind covers what lies beneath it for good; what didn't can be unmounted."""
    env.only_stasis()
    source, own = env.work / "volume", env.work / "own"
    shown, deeper = env.work / "shown", env.work / "deeper"
    for path in (source / "sub", source / "elsewhere/own", own, shown / "deep", deeper):
        path.mkdir(parents=True)
    (source / "sub/beneath").write_text("not for the container\n")
    (own / "note").write_text("its own\n")

    def change(config):
        config["mounts"] += [
            {"destination": "/tmp/volume", "type": "bind", "source": str(source), "options": ["rbind"]},
            {"destination": "/tmp/volume/elsewhere/own", "type": "bind", "source": str(own), "options": ["bind"]}]

    def unmount(c, place, ok):
        run("nsenter", "-t", c.init(), "-U", "-m", "busybox", "umount", place, ok=ok)

    def cannot_be_lifted(c):
        unmount(c, "/tmp/volume/sub", False)
        unmount(c, "/tmp/volume/sub/deep", False)
        run("nsenter", "-t", c.init(), "-U", "-m", "busybox", "umount", "-l", "/tmp/volume")

    mounted = []
    try:
        for what, place in ((shown, "sub"), (deeper, "sub/deep")):
            run("mount", "--bind", what, source / place)
            mounted.append(source / place)
        with Mapped(env, "files", change=change) as c:
            policy = c.dir / "policy.yaml"
            policy.write_text("rules:\n" + "".join(
                f"  - {{destination: /tmp/volume/{place}, remap: {what}}}\n"
                for what, place in ((shown, "sub"), (deeper, "sub/deep"))))
            maps = ("--map", f"/tmp/volume/sub={shown}", "--map", f"/tmp/volume/sub/deep={deeper}")
            c.start()
            before = c.observe()
            images = [c.checkpoint("--leave-running", "--policy", policy, door="stasis")]
            cannot_be_lifted(c)
            c.delete()
            c.gone()
            for _ in range(2):
                c.restore(images[-1], *maps, door="stasis").same_as(before)
                c.ask()
                expect("could not be unmounted" not in c.engine_logs(), c.engine_logs())
                images.append(c.checkpoint("--policy", policy, door="stasis"))
                c.gone()
            c.restore(images[-1], *maps, door="stasis")
            unmount(c, "/tmp/volume/elsewhere/own", True)
            cannot_be_lifted(c)
            c.ask()
    finally:
        for place in reversed(mounted):
            run("umount", place)
    c.gone()


@scenario
def userns_locked_copies(env):
    """A tmpfs of the host that comes back as a copy is free, and that is said; what can't be looked into is named."""
    env.only_stasis()
    source = env.work / "source"
    (source / "sub").mkdir(parents=True)
    mounted = []

    def mount(place):
        run("mount", "-t", "tmpfs", "-o", f"mode=777,uid={UIDS},gid={GIDS}", "test", place)
        mounted.append(place)
    try:
        mount(source / "sub")
        with Mapped(env, "counter", change=bind(source)) as c:
            c.start()
            run("nsenter", "-t", c.init(), "-U", "-m", "busybox", "umount", "/tmp/volume/sub", ok=False)
            before = c.observe()
            image = c.checkpoint()
            c.gone()
            c.restore(image).same_as(before, ("/tmpfs//tmp/volume/sub",))
            expect("/tmp/volume/sub (tmpfs) could not be unmounted in the container, and now it can" in c.engine_logs(),
                   c.engine_logs())
            c.ask()
        (source / "sub/deep").mkdir()
        mount(source / "sub/deep")
        with Mapped(env, "counter", change=bind(source)) as c:
            c.start()
            c.checkpoint(ok=False)
            expect("the content of the mount /tmp/volume/sub: the kernel doesn't let" in c.engine_logs(), c.engine_logs())
            c.ask()
    finally:
        for place in reversed(mounted):
            run("umount", place)


@scenario
def userns_receives_mounts(env):
    """A mount that receives the host's does so again, and sends nothing."""
    env.only_stasis()
    with Volume(env, "nosuid,nodev") as volume:
        run("mount", "--make-shared", volume)
        (volume / "sub").mkdir()
        change = bind(volume)

        def slave(config):
            config["linux"]["rootfsPropagation"] = "rslave"
            change(config)
            config["mounts"][-1]["options"].append("rslave")
        with Mapped(env, "counter", change=slave) as c:
            c.start()
            before = c.observe()
            expect(any("/tmp/volume below" in row and "master" in row
                       for rows in before["mounts"].values() for row in rows),
                   f"it receives nothing: {before['mounts']}")
            image = c.checkpoint()
            c.gone()
            c.restore(image).same_as(before)
            run("mount", "-t", "tmpfs", "later", volume / "sub")
            expect(mount_of(c, "/tmp/volume/sub"), "a mount of the host didn't arrive")
            run("umount", volume / "sub")
            run("nsenter", "-t", c.init(), "-U", "-m", "busybox", "mount", "-t", "tmpfs", "inner",
                "/tmp/volume/sub")
            expect(not os.path.ismount(volume / "sub"), "the container's mount came to the host")
            c.ask()


@scenario
def userns_other_map(env):
    """A bundle with other id maps than the checkpoint's is refused before anything is made."""
    env.only_stasis()
    with Mapped(env, "counter") as c:
        c.start()
        image = c.checkpoint(door="stasis")
        config = c.bundle / "config.json"
        text = config.read_text()
        for old, new, what in (('"hostID": 100000', '"hostID": 300000', "maps uids otherwise"),
                               ('"size": 65536', '"size": 1000', "maps uids otherwise"),
                               ('"type": "user"', '"type": "cgroup"', "config.json has none")):
            expect(old in text, "nothing to change")
            config.write_text(text.replace(old, new))
            result = c.stasis("restore", c.name, "--image", image, "--bundle", c.bundle, ok=False)
            expect(what in result.stderr, f"not told: {result.stderr}")
            result = c.stasis("inspect", image, "--diff", c.bundle, ok=None)
            expect(what in result.stdout + result.stderr, f"not told by inspect: {result.stdout}")
            c.gone()
        config.write_text(text)
        c.restore(image, door="stasis").ask()


@scenario
def userns_of_a_process(env):
    """A process with a user namespace of its own within the container's is refused by name."""
    env.only_stasis()

    def change(config):
        config["process"]["args"] = ["busybox", "sh", "-c",
                                     "busybox unshare -U busybox sleep 1000 & exec sh /demo.sh"]
    with Mapped(env, change=change) as c:
        c.start()
        c.checkpoint(ok=False)
        logs = c.engine_logs()
        expect("(busybox)" in logs and "it is in a user namespace of its own" in logs, logs)
        stood = len(c.numbers())
        wait_for("the container to go on", lambda: len(c.numbers()) > stood)


def register_faults(kind, sweep, how):
    word = "fail" if how == faults.FAIL else "kill"

    @scenario(name=f"userns_{kind}_{word}", seconds=300)
    def some(env):
        sweep(env, "counter", how, 20, Mapped)

    @scenario(name=f"userns_{kind}_{word}_many", label="long", seconds=3600)
    def many(env):
        sweep(env, "counter", how, faults.MANY, Mapped)


for _how in (faults.FAIL, faults.KILL):
    register_faults("dump", faults.sweep_dump, _how)
    register_faults("restore", faults.sweep_restore, _how)


def exchange(name, theirs_first):
    """CRIU 4.2 opens its images from inside the user namespace: they have to be readable there."""
    @scenario(label="interop", name=name)
    def go(env):
        env.only_stasis()
        peer = env.peers and os.path.join(env.peers, "criu-4.2")
        if not peer or not os.path.exists(peer):
            raise Skip("no CRIU 4.2; test/interop/get-criu brings it")
        dumper, restorer = (peer, env.stasis) if theirs_first else (env.stasis, peer)
        env = env.with_engine(env.stasis)
        with Mapped(env, "threads") as c:
            c.start()
            before = c.observe()
            env.criu = dumper
            image = c.checkpoint()
            c.gone()
            for path in [c.dir, image, *image.iterdir()]:
                path.chmod(0o755)
            env.criu = restorer
            c.restore(image)
            # What CRIU's restore changes is in harness.py; its dump keeps no mtime below a second.
            c.same_as(before, ("/network", "/tmpfs") if theirs_first else ("/mounts", "/network"))
            c.ask()


exchange("userns_criu_to_stasis", True)
exchange("userns_stasis_to_criu", False)


def cgroup_namespace(config):
    config["linux"]["namespaces"].append({"type": "cgroup"})


@scenario
def userns_cgroup_namespace(env):
    """With a cgroup namespace of its own, too: the hierarchies are mounted anew within it."""
    round_trip(env, Mapped(env, "threads", change=cgroup_namespace))
