"""podman drives stasis in place of CRIU, and its containers' mounts are known for what they are."""
import contextlib
import json
import pathlib
import shutil
import uuid

from harness import Skip, expect, run, scenario, wait_for


class Podman:
    """A podman with a store of its own and stasis as its criu."""

    def __init__(self, env):
        if not shutil.which("podman"):
            raise Skip("needs podman")
        self.dir = env.work
        self.env = {"PATH": f"{self.dir}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                    "HOME": str(self.dir), "XDG_CONFIG_HOME": str(self.dir)}
        (self.dir / "bin").mkdir()
        (self.dir / "bin/criu").symlink_to(env.stasis)
        self.name = f"stasis-test-{uuid.uuid4().hex[:8]}"

    def command(self, *args):
        return ["podman", "--root", self.dir / "storage", "--runroot", self.dir / "run",
                "--storage-driver", "vfs", "--runtime", "runc", "--cgroup-manager", "cgroupfs",
                "--events-backend", "file", *args]

    def __call__(self, *args, ok=True):
        return run(*self.command(*args), ok=ok, env=self.env).stdout.strip()

    def import_busybox(self):
        root = self.dir / "root"
        for name in ("bin", "proc", "sys", "dev", "etc", "run", "vol"):
            (root / name).mkdir(parents=True)
        shutil.copy(shutil.which("busybox"), root / "bin/busybox")
        for applet in ("sh", "sleep", "cat"):
            (root / "bin" / applet).symlink_to("busybox")
        run("tar", "-C", root, "-cf", self.dir / "image.tar", ".")
        self("import", self.dir / "image.tar", "busybox:test")

    def start(self, *options):
        # The machine that tests run on may not allow podman's default limits.
        self("run", "-d", "--name", self.name, "--network=none", "--ulimit", "nofile=1000:1000",
             "--ulimit", "nproc=1000:1000", *options, "busybox:test", "/bin/sleep", "100000")
        return self.id()

    def id(self):
        return self("inspect", self.name, "--format", "{{.Id}}")

    def sh(self, script):
        return self("exec", self.name, "/bin/sh", "-c", script)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        with contextlib.suppress(Exception):
            self("rm", "-f", "-t", "0", self.name, ok=None)
            wait_for("podman's cgroups to go", _no_cgroups, 5)


def _no_cgroups():
    """podman leaves the parent of its cgroups, and in it that of its monitors, which end a bit later."""
    parents = list(pathlib.Path("/sys/fs/cgroup").glob("*/libpod_parent"))
    for parent in parents:
        for leaf in (parent / "conmon", parent):
            with contextlib.suppress(OSError):
                leaf.rmdir()
    return not parents


OWN = {"/proc", "/sys", "/dev", "/dev/pts", "/dev/mqueue", "/cache"}
EXTERNAL = {"/etc/hosts": "hosts", "/etc/hostname": "hostname", "/run/.containerenv": ".containerenv",
            "/run/secrets": "secrets", "/run/secrets/key": "secrets/key", "/dev/shm": "userdata/shm",
            "/vol": "/volume", "/named": "/_data"}


@scenario(label="long")
def podman(env):
    """podman container checkpoint and restore; every mount in the right class before."""
    env.only_stasis()
    with Podman(env) as p:
        p.import_busybox()
        (p.dir / "volume").mkdir()
        (p.dir / "key").write_text("secret\n")
        p("secret", "create", "key", p.dir / "key")
        container = p.start("--secret", "key", "-v", f"{p.dir}/volume:/vol", "-v", "named:/named",
                            "--tmpfs", "/cache")
        _classes(json.loads(run(env.stasis, "plan", container, "--json").stdout))
        p.sh("echo c >/cache/note; echo s >/dev/shm/note; echo n >/named/note; echo v >/vol/note")
        p("container", "checkpoint", p.name)
        (p.dir / "volume/note").write_text("changed\n")
        p("container", "restore", p.name)
        expect(p.id() == container, "another container")
        notes = p.sh("cat /cache/note /dev/shm/note /named/note /vol/note /run/secrets/key").split()
        expect(notes == ["c", "s", "n", "changed", "secret"], f"the mounts hold {notes}")
        _classes(json.loads(run(env.stasis, "plan", container, "--json").stdout))


def _classes(plan):
    expect(plan["checkpointable"], plan["findings"])
    mounts = {m["mountpoint"]: m for m in plan["mounts"]}
    for point in OWN:
        expect(mounts[point]["class"] == "own", mounts[point])
    for point, end in EXTERNAL.items():
        mount = mounts[point]
        expect(mount["class"] == "external" and mount["key"] == point, mount)
        expect(mount["source"].endswith(end), mount)
        expect(pathlib.Path(mount["source"]).exists(), f"{mount['source']} isn't there")
