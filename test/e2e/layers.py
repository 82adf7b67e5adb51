"""Roots that are made of layers: what the kernel tells of their files isn't what a path shows."""
import contextlib
import os
import pathlib
import shutil

from harness import Container, expect, run, scenario
from sources import mounted


class Layers:
    """An overlay of a container's rootfs: lower layers on one file system, the upper on another."""

    def __init__(self, container):
        self.rootfs = container.bundle / "rootfs"
        self.lower, self.upper = container.dir / "lower", container.dir / "upper"

    @contextlib.contextmanager
    def mounted(self):
        self.lower.mkdir()
        self.upper.mkdir()
        with mounted(self.lower, "-t", "tmpfs", "lower"), mounted(self.upper, "-t", "tmpfs", "upper"):
            shutil.copytree(self.rootfs, self.lower / "base", symlinks=True)
            for name in ("lower", "copied", "removed", "both/lower"):
                path = self.lower / "more/laid" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("l" * 3 * 4096)
            self.new_upper("first")
            with self.over(self.rootfs, "first"):
                yield self

    def new_upper(self, name):
        for part in ("data", "work"):
            (self.upper / name / part).mkdir(parents=True)

    def options(self, name):
        return (f"lowerdir={self.lower}/more:{self.lower}/base,upperdir={self.upper}/{name}/data,"
                f"workdir={self.upper}/{name}/work,xino=off")

    def over(self, path, name):
        return mounted(path, "-t", "overlay", "-o", self.options(name), "layers")


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
    c = Container(env, "layers")
    layers = Layers(c)
    with layers.mounted() as made, c:
        c.start().ask()
        expect("/laid/lower" in mismatch(c.init()), "this kernel tells the same of both")
        before = c.observe()
        for door in ("runc", "stasis"):
            image = c.checkpoint(door=door)
            c.gone()
            c.restore(image, door=door).same_as(before).ask()
        image = c.checkpoint()
        made.new_upper("second")
        run("cp", "-a", f"{made.upper}/first/data/.", f"{made.upper}/second/data/")
        run("umount", made.rootfs)
        with made.over(made.rootfs, "second"):
            c.restore(image).ask()
            c.delete()
        run("mount", "-t", "overlay", "-o", made.options("first"), "layers", made.rootfs)
