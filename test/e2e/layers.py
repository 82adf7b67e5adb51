"""Roots that are made of layers: what the kernel tells of their files isn't what a path shows."""
import contextlib
import os
import pathlib
import shutil

from harness import Container, expect, run, scenario
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

    def overlay(self, name="first"):
        """Mounted on the root for as long as the context lasts."""
        return mounted(self.root, "-t", "overlay", "-o",
                       f"lowerdir={self.lower}/more:{self.lower}/base,xino=off,"
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
