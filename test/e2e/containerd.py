"""containerd, which knows nothing of stasis: hooks and annotation come with the container's spec."""
import contextlib
import json
import os
import shutil
import subprocess

from harness import Container, Failure, Skip, expect, run, scenario, wait_for
from in_place import from_checkpoint, no_watcher, restore_log, watchers
from snapshot import configure, says_ready

CONFIG = """version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
root = "{0}/root"
state = "{0}/state"
[grpc]
address = "{0}/socket"
"""


class Containerd:
    """A containerd with a store of its own."""

    def __init__(self, env):
        if not shutil.which("containerd"):
            raise Skip("needs containerd")
        self.dir = env.work / "containerd"
        self.dir.mkdir()
        (self.dir / "criu").symlink_to(env.stasis)
        (self.dir / "config.toml").write_text(CONFIG.format(self.dir))
        with open(self.dir / "log", "w") as log:
            self.daemon = subprocess.Popen(["containerd", "--config", self.dir / "config.toml"],
                                           env={**os.environ, "PATH": f"{self.dir}:{os.environ['PATH']}"},
                                           stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for("containerd", lambda: self("version", ok=None).returncode == 0)

    def __call__(self, *args, ok=True):
        return run("ctr", "--address", self.dir / "socket", *args, ok=ok)

    def run(self, c, *options, ok=True):
        """The container with the spec of its bundle, which containerd copies elsewhere."""
        path = c.bundle / "config.json"
        config = json.loads(path.read_text())
        config["root"]["path"] = str(c.bundle / "rootfs")
        for mount in config["mounts"]:
            if mount["type"] == "bind":
                mount["source"] = str(c.bundle / mount["source"])
        path.write_text(json.dumps(config))
        try:
            return self("run", "-d", *(options or ["--null-io"]), "--runc-root", self.dir / "runc",
                        "--config", path, c.name, ok=ok)
        except Failure as failure:
            raise Failure(f"{failure}\n{restore_log(c)}") from None

    def kill(self, c):
        self("task", "kill", "-s", "KILL", c.name, ok=None)
        wait_for("its end", lambda: "RUNNING" not in self("task", "ls").stdout)
        said = self("task", "rm", c.name, ok=None).stderr
        self("container", "rm", c.name, ok=None)
        return said

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        for name in self("container", "ls", "-q", ok=None).stdout.split():
            for command in (("task", "kill", "-s", "KILL"), ("task", "rm", "-f"), ("container", "rm")):
                with contextlib.suppress(Failure):
                    self(*command, name, ok=None)
        self.daemon.terminate()
        self.daemon.wait(20)


@scenario(label="long")
def in_place_containerd_image(env):
    """From what `ctr task checkpoint` and `ctr image export` make."""
    env.only_stasis()
    with Containerd(env) as ctr, Container(env, "threads") as c:
        ctr.run(c)
        c.ask()
        made = ctr("task", "checkpoint", c.name).stdout.split()[-1]
        archive = env.work / "checkpoint.tar"
        ctr("image", "export", "--skip-manifest-json", archive, made)
        ctr.kill(c)
        archive.chmod(0o600)
        from_checkpoint(c, archive)
        ctr.run(c)
        c.ask()
        no_watcher(c)
        expect("Restored in place" in restore_log(c), restore_log(c))
        ctr.kill(c)


@scenario(label="long")
def snapshot_containerd(env):
    """Ready when it says so in the log that containerd's shim writes."""
    env.only_stasis()
    with Containerd(env) as ctr, Container(env, "threads", change=says_ready) as c:
        for says in ("Snapshot taken", "Restored in place"):
            configure(c, "log=^serves")
            log = env.work / f"log of {says}".replace(" ", "-")
            ctr.run(c, "--log-uri", f"file://{log}")
            wait_for("the watcher's end", lambda: not watchers(c))
            expect(says in restore_log(c), restore_log(c))
            expect(("begins" in log.read_text()) == (says == "Snapshot taken"), log.read_text())
            c.ask()
            ctr.kill(c)
