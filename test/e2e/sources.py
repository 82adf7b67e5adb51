"""Sources on the host that change, are links, are gone, or are shared with others."""
import contextlib
import ctypes
import os
import pathlib
import shutil
import subprocess

from harness import Container, Skip, expect, run, scenario, wait_for


@contextlib.contextmanager
def mounted(path, *arguments):
    run("mount", *arguments, path)
    try:
        yield path
    finally:
        run("umount", "-R", "-l", path)


def bound(*pairs):
    """config.json's change: (destination, source, options...)."""
    def change(config):
        for destination, source, *options in pairs:
            config["mounts"].append({"destination": destination, "type": "bind",
                                     "source": str(source), "options": options or ["rbind"]})
    return change


def renew(volume, stamp, text):
    (volume / stamp).mkdir()
    (volume / stamp / "token").write_text(text)
    (volume / "..data_tmp").symlink_to(stamp)
    (volume / "..data_tmp").rename(volume / "..data")


def inside(container, path):
    return pathlib.Path(f"/proc/{container.init()}/root") / path


@scenario
def projected_volume(env):
    """What the kubelet does to a ConfigMap: ..data is swapped, the old directory removed."""
    with Container(env, "counter", change=bound(("/secrets", "projected"))) as c:
        volume = c.bundle / "projected"
        volume.mkdir()
        renew(volume, "..2024_1", "old")
        (volume / "token").symlink_to("..data/token")
        c.start()
        renew(volume, "..2024_2", "new")
        shutil.rmtree(volume / "..2024_1")
        for door in ("runc", "stasis") if env.stasis else ("runc",):
            c.restore(c.checkpoint(door=door), door=door)
            c.ask()
            expect(inside(c, "secrets/..data/token").read_text() == "new", "not the host's volume")
        renew(volume, "..2024_3", "newest")
        expect(inside(c, "secrets/..data/token").read_text() == "newest", "the volume is a copy")


@scenario
def sub_path(env):
    """A file of a ConfigMap that the kubelet has renewed: its bind of the old one can't be bound again."""
    env.only_stasis()
    c = Container(env, "counter", change=bound(("/single", "subpath")))
    volume, source = c.bundle / "projected", c.bundle / "subpath"
    volume.mkdir()
    source.touch()
    renew(volume, "..2024_1", "old")
    with contextlib.ExitStack() as stack:
        mount = stack.enter_context(contextlib.ExitStack())
        mount.enter_context(mounted(source, "--bind", volume / "..2024_1/token"))
        stack.enter_context(c)
        c.start()
        renew(volume, "..2024_2", "new")
        c.restore(c.checkpoint()).ask()  # renewed, but the old one is still there
        shutil.rmtree(volume / "..2024_1")
        c.checkpoint(ok=False)
        expect(f"{source} still shows a file that has been deleted" in c.engine_logs(),
               c.engine_logs())
        policy = c.dir / "policy.yaml"
        policy.write_text("rules: [{destination: /single, action: content}]\n")
        image = c.checkpoint("--policy", policy, door="stasis")
        mount.close()
        # runc wants the source that config.json names, whatever it is.
        c.restore(image).ask()
        expect(inside(c, "single").read_text() == "old", "another file at the subPath")


@scenario
def linked_source(env):
    """A source that is a symbolic link: followed as runc does, also when it leads elsewhere by now."""
    env.only_stasis()
    c = Container(env, "counter", change=bound(("/linked", "link"), ("/name", "name")))
    for name in ("one", "two"):
        (c.bundle / name).mkdir()
        (c.bundle / name / "file").write_text(name)
    (c.bundle / "link").symlink_to("one")
    (c.bundle / "name").symlink_to("one/file")
    with c:
        c.start()
        before = c.observe()
        c.restore(c.checkpoint())
        c.same_as(before).ask()
        (c.bundle / "link.new").symlink_to("two")
        (c.bundle / "link.new").rename(c.bundle / "link")
        plan = c.stasis("plan", c.name).stdout
        expect("was replaced since" in plan and "is a symbolic link to two" in plan, plan)
        c.restore(c.checkpoint(door="stasis"), door="stasis")
        c.ask()
        expect(inside(c, "linked/file").read_text() == "two", "the link is not followed")
        expect(inside(c, "name").read_text() == "one", "another file")


@scenario
def source_is_gone(env):
    """A source deleted since: refused before the freeze, by name and with the remedy, by both doors."""
    env.only_stasis()
    c = Container(env, "counter", change=bound(("/gone", "gone"), ("/gone-too", "gone-too")))
    (c.bundle / "gone").mkdir()
    (c.bundle / "gone-too").touch()
    with c:
        c.start()
        before = c.observe()
        for name in ("gone", "gone-too"):
            (c.bundle / name).rename(c.bundle / "hidden")
            c.checkpoint(ok=False)
            for text in (c.engine_logs(), c.stasis("plan", c.name, ok=False).stdout,
                         c.stasis("checkpoint", c.name, "--image", c.dir / "image", ok=False).stderr):
                expect(f"mount /{name} " in text and f"{c.bundle}/{name}" in text, text)
                expect("is gone" in text or "was deleted since" in text, text)
                expect("Freez" not in text and "Froze" not in text, text)
            expect("put it back" in c.stasis("plan", c.name, ok=False).stdout, "no remedy")
            (c.bundle / "hidden").rename(c.bundle / name)
            c.same_as(before).ask()
        c.restore(c.checkpoint())
        c.same_as(before).ask()


@scenario
def shared_tmpfs(env):
    """A tmpfs of the pod, which another container has, too: bound again, never copied."""
    with contextlib.ExitStack() as stack:
        shared = env.work / "emptydir"
        shared.mkdir()
        stack.enter_context(mounted(shared, "-t", "tmpfs", "tmpfs"))
        one, other = (stack.enter_context(Container(env, "counter", change=bound(("/work", shared))))
                      for _ in range(2))
        for c in (one, other):
            c.start()
        inside(one, "work/from").write_text("before")
        image = one.checkpoint()
        inside(other, "work/from").write_text("changed meanwhile")
        one.restore(image)
        one.ask()
        other.ask()
        expect(inside(one, "work/from").read_text() == "changed meanwhile", "the tmpfs is a copy")
        inside(one, "work/back").write_text("after")
        expect(inside(other, "work/back").read_text() == "after", "the tmpfs is not shared")


@scenario
def shared_with_the_host(env):
    """Volumes that receive the host's mounts, or exchange them, do so again; a private one doesn't."""
    env.only_stasis()
    with contextlib.ExitStack() as stack:
        host = env.work / "volume"
        host.mkdir()
        stack.enter_context(mounted(host, "-t", "tmpfs", "tmpfs"))
        run("mount", "--make-shared", host)
        for name in ("early", "late", "back"):
            (host / name).mkdir()
        volumes = bound(("/slave", host, "rbind", "rslave"), ("/shared", host, "rbind", "rshared"),
                        ("/private", host, "rbind", "rprivate"))

        def change(config):
            volumes(config)
            config["linux"]["rootfsPropagation"] = "rshared"  # without it runc shares nothing
        c = stack.enter_context(Container(env, "counter", change=change))
        c.start()
        before = c.observe()
        for door in ("runc", "stasis"):
            c.restore(c.checkpoint(door=door), door=door)
            c.same_as(before).ask()
        run("mount", "-t", "tmpfs", "late", host / "late")
        (host / "late/file").write_text("late")
        for name, there in (("slave", True), ("shared", True), ("private", False)):
            expect(inside(c, f"{name}/late/file").exists() == there, f"/{name} sees otherwise")
        run("nsenter", "-t", c.init(), "-m", "mount", "-t", "tmpfs", "back", "/shared/back")
        expect(os.path.ismount(host / "back"), "the host doesn't see the container's mount")
        run("nsenter", "-t", c.init(), "-m", "mount", "-t", "tmpfs", "back", "/slave/early")
        expect(not os.path.ismount(host / "early"), "a slave's mount came to the host")
        for name in ("late", "back"):
            run("umount", host / name)
        wait_for("the mounts to go", lambda: not inside(c, "slave/late/file").exists())


def map_ids(path, users):
    """Stands at `path`, of the same files, with owners as the user namespace of process `users`
    maps them. Debian 12's mount can't do that yet."""
    libc = ctypes.CDLL(None, use_errno=True)
    open_tree, move_mount, mount_setattr, empty, idmap = 428, 429, 442, 0x1000, 0x100000

    def call(*arguments):
        result = libc.syscall(*arguments)
        if result < 0:
            raise Skip(f"no id-mapped mount can be made here: {os.strerror(ctypes.get_errno())}")
        return result
    tree = call(open_tree, -100, os.fsencode(path), 1)
    with open(f"/proc/{users}/ns/user", "rb") as namespace:
        attributes = (ctypes.c_uint64 * 4)(idmap, 0, 0, namespace.fileno())
        call(mount_setattr, tree, b"", empty, attributes, ctypes.sizeof(attributes))
    call(move_mount, tree, b"", -100, os.fsencode(path), 4)
    os.close(tree)


@scenario
def id_mapped_volume(env):
    """A volume whose owners are mapped for the container: what Kubernetes does for pods with a user
    namespace. The map comes back with it, though the host has only the plain directory by then."""
    env.only_stasis()
    c = Container(env, "counter", change=bound(("/volume", "volume")), hooks=False)
    volume = c.bundle / "volume"
    volume.mkdir()
    (volume / "file").write_text("data")
    os.chown(volume / "file", 1000, 1000)
    users = subprocess.Popen(["unshare", "-U", "sleep", "1000"])
    try:
        own = os.readlink("/proc/self/ns/user")
        wait_for("the user namespace", lambda: os.readlink(f"/proc/{users.pid}/ns/user") != own)
        for kind in ("uid_map", "gid_map"):
            pathlib.Path(f"/proc/{users.pid}/{kind}").write_text("0 100000 65536\n")
        map_ids(volume, users.pid)
        with c:
            c.start()
            expect(inside(c, "volume/file").stat().st_uid == 101000, "the volume isn't id-mapped")
            before = c.observe()
            result = c.stasis("plan", c.name, ok=None)
            if result.returncode:
                expect("this kernel can't tell" in result.stdout, result.stdout)
                raise Skip("this kernel doesn't tell the maps of a mount")
            for door in ("stasis", "runc"):
                c.restore(c.checkpoint(door=door), door=door).same_as(before)
                expect(inside(c, "volume/file").stat().st_uid == 101000, "another owner")
                run("umount", volume, ok=None)
            c.restore(c.checkpoint()).same_as(before)
            expect((volume / "file").stat().st_uid == 1000, "the host's own file was changed")
            c.ask()
    finally:
        users.kill()
        users.wait()
        run("umount", volume, ok=None)
