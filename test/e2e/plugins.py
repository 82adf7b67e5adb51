"""Mounts that a plugin makes: FUSE volumes that no config.json names."""
import contextlib
import ctypes
import json
import os
import pathlib
import shutil
import subprocess

from harness import Container, Skip, expect, run, scenario, wait_for
from mount_faults import inside, refused
from policy import machine_policy

VOLUMES = pathlib.Path("/run/volumes")


def built(env, name):
    """What plugins/CMakeLists.txt builds beside the test programs."""
    path = env.programs.parent.parent / "plugins/plugins" / name
    if not path.exists():
        raise Skip(f"needs {path}")
    return path


@contextlib.contextmanager
def volume(env, name):
    """A server of a volume whose content is a file of ours."""
    content = env.work / f"{name}.text"
    if not content.exists():
        content.write_text("from the volume")
    (VOLUMES / name).mkdir(parents=True)
    server = subprocess.Popen([built(env, "volume_server"), name, content],
                              stdin=subprocess.DEVNULL)
    try:
        wait_for("the FUSE server", lambda: os.path.ismount(VOLUMES / name))
        yield content
    finally:
        run("umount", "-l", VOLUMES / name, ok=None)
        server.wait(10)
        (VOLUMES / name).rmdir()
        with contextlib.suppress(OSError):
            VOLUMES.rmdir()


def attach(source, pid, point):
    """What an agent does that brings a running container a volume."""
    open_tree, move_mount, clone, empty_path = 428, 429, 1, 4
    libc = ctypes.CDLL(None, use_errno=True)
    tree = libc.syscall(open_tree, -100, str(source).encode(), clone)
    expect(tree >= 0, f"open_tree: {os.strerror(ctypes.get_errno())}")
    child = os.fork()
    if child == 0:
        with open(f"/proc/{pid}/ns/mnt", encoding="ascii") as namespace:
            good = libc.setns(namespace.fileno(), 0x20000) == 0 and \
                libc.syscall(move_mount, tree, b"", -100, point.encode(), empty_path) == 0
        os._exit(0 if good else 1)
    os.close(tree)
    expect(os.waitpid(child, 0)[1] == 0, f"{source} can't be attached at {point}")


@contextlib.contextmanager
def installed(env, *names):
    """A directory of plugins that the machine's policy names."""
    directory = env.work / "plugins"
    directory.mkdir(mode=0o755)
    for name in names:
        os.chmod(shutil.copy(built(env, name), directory), 0o755)
    with machine_policy(f"plugins: {directory}\n"):
        yield


def plan_of(c, ok=None):
    return json.loads(c.stasis("plan", c.name, "--json", ok=ok).stdout)


@scenario
def plugin_volume(env):
    """A volume that an agent attached to the running container: found again by its name, served by
    another server, of another device; a clear word without plugin or server."""
    env.only_stasis()
    c = Container(env, "counter")
    name = f"photos-{os.getpid()}"

    def text():
        return pathlib.Path(f"/proc/{c.init()}/root/tmp/photos/text")

    with c:
        c.start()
        (pathlib.Path(f"/proc/{c.init()}/root") / "tmp/photos").mkdir()
        with volume(env, name):
            attach(VOLUMES / name, c.init(), "/tmp/photos")
            refused(c, "/tmp/photos", "a file system of this type can't be mounted anew",
                    "Name it as external: --external mnt[/tmp/photos]:KEY")
            inside(c, "umount", "/tmp/photos")
        with installed(env, "fuse_volume.so"):
            with volume(env, name):
                attach(VOLUMES / name, c.init(), "/tmp/photos")
                row = next(r for r in plan_of(c, True)["mounts"] if r["mountpoint"] == "/tmp/photos")
                expect((row["class"], row["provider"]) == ("provided", "fuse-volume"), row)
                before = c.observe()
                image = c.checkpoint()
                c.gone()
                c.restore(image).same_as(before).ask()
                expect(text().read_text() == "from the volume", "not the volume")
                image = c.checkpoint(door="stasis")
            c.restore(image, ok=False)
            expect(f"volume {name} isn't mounted" in c.engine_logs(), c.engine_logs())
            with volume(env, name) as content:
                c.restore(image, door="stasis").same_as(before).ask()
                text().write_text("from the container")
                expect(content.read_text() == "from the container", "a copy of the volume")
                image = c.checkpoint()
        with volume(env, name):
            c.restore(image, ok=False)
            expect("there is none of this name" in c.engine_logs(), c.engine_logs())


@scenario
def plugin_unfit(env):
    """A plugin for another stasis stops a checkpoint before anything is frozen, by its name."""
    env.only_stasis()
    with Container(env, "counter") as c:
        c.start()
        with installed(env, "other_version.so"):
            c.checkpoint(ok=False)
            expect("other_version.so" in c.engine_logs() and "version 7" in c.engine_logs(),
                   c.engine_logs())
            said = c.stasis("plan", c.name, ok=False).stderr
            expect("other_version.so" in said, said)
        c.ask()
        c.restore(c.checkpoint()).ask()
