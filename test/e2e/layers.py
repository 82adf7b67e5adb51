"""Roots that are made of layers: what the kernel tells of their files isn't what a path shows."""
import contextlib
import os
import pathlib
import shutil

from harness import Container, expect, run, scenario
from mount_faults import Tree, inside, refused
from sources import mounted


class Layers:
    """A container's root as an overlay: lower layers on one file system, the upper on another."""

    def __init__(self, env, program):
        self.root, self.lower, self.upper = (env.work / name for name in ("root", "lower", "upper"))

        def change(config):
            config["root"] = {"path": str(self.root), "readonly": False}
        self.container = Container(env, program, change=change)

    @contextlib.contextmanager
    def mounted(self):
        for path in (self.root, self.lower, self.upper):
            path.mkdir()
        with mounted(self.lower, "-t", "tmpfs", "lower"), mounted(self.upper, "-t", "tmpfs", "upper"):
            shutil.copytree(self.container.bundle / "rootfs", self.lower / "base", symlinks=True)
            for name in ("lower", "copied", "removed", "both/lower"):
                path = self.lower / "more/laid" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("l" * 3 * 4096)
            self.new_upper("first")
            yield self

    def new_upper(self, name):
        for part in ("data", "work"):
            (self.upper / name / part).mkdir(parents=True)

    def overlay(self, name="first", lower="more"):
        """Mounted on the root for as long as the context lasts."""
        return mounted(self.root, "-t", "overlay", "-o",
                       f"lowerdir={self.lower}/{lower}:{self.lower}/base,xino=off,"
                       f"upperdir={self.upper}/{name}/data,workdir={self.upper}/{name}/work", "layers")


def mismatch(pid):
    """Files that maps and stat tell different devices of."""
    found = set()
    for line in pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines():
        place, _, _, device, _, *path = line.split(maxsplit=5)
        if path and path[0].startswith("/laid"):
            told = os.stat(f"/proc/{pid}/map_files/{place}").st_dev
            if device != f"{os.major(told):02x}:{os.minor(told):02x}":
                found.add(path[0])
    return found


@scenario
def overlay_layers(env):
    """Files of lower layers on another file system: mapped, open, copied up, removed; restored
    into the same overlay, and into a new one with the upper layer's data."""
    env.only_stasis()
    layers = Layers(env, "layers")
    c = layers.container
    with layers.mounted(), c:
        with layers.overlay():
            c.start().ask()
            expect("/laid/lower" in mismatch(c.init()), "this kernel tells the same of both")
            before = c.observe()
            for door in ("runc", "stasis"):
                image = c.checkpoint(door=door)
                c.gone()
                c.restore(image, door=door).same_as(before).ask()
            image = c.checkpoint()
        c.restore(image, "--mount-root", door="stasis").ask()
        c.stasis("restore", c.name + "-2", "--image", image, "--mount-root", "--bundle", c.bundle,
                 ok=False)  # a second one would write to the same upper layer
        c.delete()
        run("umount", layers.root)
        layers.new_upper("second")
        run("cp", "-a", f"{layers.upper}/first/data/.", f"{layers.upper}/second/data/")
        with layers.overlay("second"):
            c.restore(image).ask()
            c.delete()


DOCKER_FILES = ("resolv.conf", "hostname", "hosts")


@scenario
def command_lines_of_2014(env):
    """How containers of Docker on aufs were dumped and restored by hand, word for word. This kernel
    has no aufs: the root is an overlay, and the log says that what is asked for aufs has no effect."""
    env.only_stasis()
    layers = Layers(env, "counter")
    root, files = layers.root, env.work / "containers"
    files.mkdir()
    with layers.mounted(), layers.overlay():
        (root / "old").mkdir()
        for name in DOCKER_FILES:
            (files / name).write_text(f"{name} by Docker\n")
        binds = "; ".join(f"mount --bind {files}/{name} {root}/etc/{name}" for name in DOCKER_FILES)
        setup = f"""mount --bind {root} {root}; mount -t proc proc {root}/proc
            mount -t tmpfs dev {root}/dev; mknod -m 666 {root}/dev/null c 1 3; {binds}
            cd {root}; pivot_root . old; export PATH=/bin; umount -l /old; hash -r"""
        keys = [word for name in DOCKER_FILES
                for word in ("--ext-mount-map", f"/etc/{name}:/etc/{name}")]
        places = [word for name in DOCKER_FILES
                  for word in ("--ext-mount-map", f"/etc/{name}:{files}/{name}")]
        with Tree(env, setup) as tree:
            told = tree.dump("--evasive-devices", *keys, "--aufs", "--aufs-root", root,
                             "--aufs-ref", "/etc/hosts")
            expect("is overlay, no aufs" in told, told[-2000:])
            tree.restore("--root", root, *places)
            for name in DOCKER_FILES:
                expect(tree.path(f"/etc/{name}").read_text() == f"{name} by Docker\n", name)
            tree.dump("--root", root, *keys)  # as it was from 2015 on
            tree.restore("--root", root, *places)


# The kernel empties an overlay's working directory when it mounts it; whiteouts are links into it.
WORK = ("/work/#",)


def shown(c, point):
    lines = pathlib.Path(f"/proc/{c.init()}/mountinfo").read_text().splitlines()
    return [line.split(" - ")[1] for line in lines if line.split()[4] == point]


def read(c, path):
    return pathlib.Path(f"/proc/{c.init()}/root{path}").read_text()


@scenario
def overlay_inside(env):
    """Overlays that the container mounted itself, of directories of its own: with files in use,
    over one of its own layers, of lower layers alone, and of layers that are covered by now."""
    env.only_stasis()
    mount = "mkdir -p /tmp/up /tmp/work && mount -t overlay laid " \
            "-o lowerdir=/low,upperdir=/tmp/up,workdir=/tmp/work,xino=off /laid"

    def change(config):
        config["root"]["readonly"] = False
        # Before the program starts, and beneath what will be the container's root.
        config["hooks"].setdefault("createContainer", []).append(
            {"path": "/bin/sh", "args": ["sh", "-c", f"PATH=/usr/sbin:/usr/bin:/bin chroot $PWD /bin/sh -c '{mount}'"]})
    c = Container(env, "layers", change=change)
    rootfs = c.bundle / "rootfs"
    for name in ("lower", "copied", "removed", "both/lower"):
        path = rootfs / "low" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("l" * 3 * 4096)
    for name in ("laid", "ro", "cover", "moved"):
        (rootfs / name).mkdir()
    (rootfs / "cover/below").write_text("below")
    with c:
        c.start().ask()
        inside(c, "mkdir", "/tmp/a,b", "/tmp/w")
        inside(c, "mount", "-t", "overlay", "cover", "-o",
               "lowerdir=/cover,upperdir=/tmp/a\\,b,workdir=/tmp/w", "/cover")
        inside(c, "sh", "-c", "echo above >/cover/above; rm /cover/below")
        inside(c, "mount", "-t", "overlay", "ro", "-o", "lowerdir=/low/both:/moved", "/ro")
        inside(c, "mount", "-t", "tmpfs", "hides", "/low")
        before, told = c.observe(), {p: shown(c, p) for p in ("/laid", "/cover", "/ro", "/low")}
        for door in ("runc", "stasis"):
            c.comes_back(before, door=door, ignore=(*WORK, "/tmp/a,b/below: "))
            expect({p: shown(c, p) for p in told} == told, "another mount table")
            expect(read(c, "/cover/above") == "above\n", "what was written above")
            expect(not os.path.exists(f"/proc/{c.init()}/root/cover/below"), "what was removed is back")
            expect(read(c, "/ro/lower")[0] == "l", "a covered layer")
        inside(c, "umount", "/cover")
        expect(read(c, "/cover/below") == "below", "the layer below was written to")
        for options, *words in (
                ("lowerdir=/data:/low", "its layer /data lies on /data", "comes from the host"),
                ("lowerdir=low:/bin", '"low" is no plain absolute path'),
                ("lowerdir=/low:/bin,upperdir=/tmp/a\\,b,workdir=/tmp/w,index=on", "index=on ties")):
            inside(c, "sh", "-c", f"cd / && mount -t overlay refused -o '{options}' /cover")
            refused(c, "/cover", *words, "Unmount it in the container")
            inside(c, "umount", "/cover")
        inside(c, "umount", "/ro")
        inside(c, "mount", "-t", "overlay", "ro", "-o", "lowerdir=/moved:/bin", "/ro")
        (rootfs / "moved").rename(rootfs / "away")
        refused(c, "its layer /moved isn't there", "Unmount it in the container")
        (rootfs / "away").rename(rootfs / "moved")
        c.comes_back(c.observe(), ignore=WORK)
