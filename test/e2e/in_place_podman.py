"""podman's containers that start from checkpoints, also from those that it exported."""
import contextlib
import os
import pathlib

from harness import Failure, expect, run, scenario, wait_for
from in_place import ANNOTATION
from podman import Podman


@contextlib.contextmanager
def explained(p):
    try:
        yield
    except Failure as failure:
        logs = [log.read_text() for log in pathlib.Path("/run/stasis").glob(f"{p.id()}/restore.log")]
        raise Failure(f"{failure}\n{p('logs', p.name)}\n{logs}") from None


COUNTER = "i=0; while :; do i=$((i+1)); echo $i >>/vol/counter; echo $i; sleep 0.02; done"


@scenario(label="long")
def in_place_podman(env):
    """From a checkpoint of podman's own, once and again: its logs are the restored program's."""
    env.only_stasis()
    hooks = env.work / "hooks.d"
    run(env.stasis, "hook", "install", "--dir", hooks)
    with Podman(env) as p:
        p.import_busybox()
        volume = p.dir / "volume"
        volume.mkdir()

        def numbers():
            text = (volume / "counter").read_text() if (volume / "counter").exists() else ""
            return [int(n) for n in text.split()]

        def start(*options):
            p("--hooks-dir", hooks, "run", "-d", "--name", p.name, "--network=none", "--ulimit",
              "nofile=1000:1000", "--ulimit", "nproc=1000:1000", "-v", f"{volume}:/vol", *options)
        start("busybox:test", "/bin/sh", "-c", COUNTER)
        wait_for("some numbers", lambda: len(numbers()) > 10)
        image = p.dir / "image"
        run("runc", "--criu", env.stasis, "checkpoint", "--image-path", image, "--work-path",
            p.dir / "work", p.id())
        stood = len(numbers())
        p("rm", "-f", p.name)
        with explained(p):
            start("--annotation", f"{ANNOTATION}={image}", "busybox:test", "/bin/sleep", "100")
        wait_for("the counter to go on", lambda: len(numbers()) > stood + 10)
        expect(numbers() == list(range(1, len(numbers()) + 1)), f"lost or doubled: {numbers()}")
        logs = p("logs", p.name).split()
        expect(logs and int(logs[0]) > stood - 2, f"podman logs begins with {logs[:3]}")
        p("kill", "-s", "KILL", p.name)
        p("wait", p.name)
        # Again, as podman restarts a container: from the checkpoint.
        with explained(p):
            p("--hooks-dir", hooks, "start", p.name)
        stood = len(numbers())
        wait_for("the counter to go on", lambda: len(numbers()) > stood + 10)


@scenario(label="long")
def in_place_archive(env):
    """What `podman container checkpoint --export` writes, however it is compressed."""
    env.only_stasis()
    hooks = env.work / "hooks.d"
    run(env.stasis, "hook", "install", "--dir", hooks)
    with Podman(env) as p:
        p.import_busybox()
        options = ("--hooks-dir", hooks, "run", "-d", "--name", p.name, "--network=none", "--ulimit",
                   "nofile=1000:1000", "--ulimit", "nproc=1000:1000")
        # It has a file of its own open, has changed and deleted others, and has memory in /dev/shm.
        p(*options, "busybox:test", "/bin/sh", "-c",
          "echo own >/etc/own; exec 5</etc/own; busybox rm /bin/cat; busybox ln -s /bin/busybox /bin/changed; echo m >/dev/shm/m; "
          + COUNTER.replace("echo $i >>/vol/counter; ", ""))

        def last():
            said = p("logs", p.name).split()
            return int(said[-1]) if said else 0
        for kind in ("none", "gzip", "zstd"):
            wait_for("some numbers", lambda: last() > 10)
            archive = p.dir / f"archive-{kind}"
            p("container", "checkpoint", "--export", archive, "--compress", kind, p.name)
            archive.chmod(0o600)
            stood = last()
            p("rm", "-f", p.name)
            with explained(p):
                p(*options, "--annotation", f"{ANNOTATION}={archive}", "busybox:test", "/bin/sleep", "9")
            wait_for("the counter to go on", lambda: last() > stood + 10)
            expect(int(p("logs", p.name).split()[0]) > stood, "it was started anew")
            expect(p.sh("busybox cat /proc/1/fd/5 /etc/own /dev/shm/m").split() == ["own", "own", "m"], "files of its own")
            expect(p.sh("test -e /bin/cat || busybox readlink /bin/changed") == "/bin/busybox", "changed files")
            expect(not os.path.exists(f"/var/lib/stasis/unpacked/{p.id()}"), "what was unpacked is left")
        # As an image, which is what Kubernetes restores from.
        wait_for("some numbers", lambda: last() > 10)
        p("container", "checkpoint", "--export", archive, p.name)
        stood = last()
        p("rm", "-f", p.name)
        (p.dir / "Containerfile").write_text(f"FROM scratch\nADD {archive.name} /\n")
        p("build", "-t", "checkpoint:test", "-f", p.dir / "Containerfile", p.dir)
        for kind in ("oci-archive", "docker-archive"):
            image = p.dir / f"image.{kind}"
            p("save", "--format", kind, "-o", image, "checkpoint:test")
            image.chmod(0o600)
            with explained(p):
                p(*options, "--annotation", f"{ANNOTATION}={image}", "busybox:test", "/bin/sleep", "9")
            wait_for("the counter to go on", lambda: last() > stood + 10)
            p("rm", "-f", p.name)
        archive.write_bytes(archive.read_bytes()[:-2000])
        p(*options, "--annotation", f"{ANNOTATION}={archive}", "busybox:test", "/bin/sleep", "9", ok=False)
        expect(not os.listdir("/var/lib/stasis/unpacked"), "what was unpacked is left")
        logs = pathlib.Path("/run/stasis").glob("*/restore.log")
        expect(not [log for log in logs if str(archive) in log.read_text()], "a record is left")


@scenario(label="long")
def in_place_default_hooks(env):
    """Where `hook install` puts its files by itself podman looks by itself."""
    env.only_stasis()
    with Podman(env) as p:
        p.import_busybox()

        def start(*options):
            p("run", "-d", "--name", p.name, "--network=none", "--ulimit", "nofile=1000:1000",
              "--ulimit", "nproc=1000:1000", *options)

        def numbers():
            return [int(n) for n in p("logs", p.name).split()]
        start("busybox:test", "/bin/sh", "-c", COUNTER.replace("echo $i >>/vol/counter; ", ""))
        wait_for("some numbers", lambda: len(numbers()) > 10)
        image = p.dir / "image"
        run("runc", "--criu", env.stasis, "checkpoint", "--image-path", image, "--work-path", p.dir / "work", p.id())
        stood = numbers()[-1]
        p("rm", "-f", p.name)
        run(env.stasis, "hook", "install")
        try:
            with explained(p):
                start("--annotation", f"{ANNOTATION}={image}", "busybox:test", "/bin/sleep", "100")
            wait_for("the counter to go on", lambda: len(numbers()) > 10)
            expect(numbers()[0] > stood, "it was started anew")
            p("rm", "-f", "-t", "0", p.name)
        finally:
            run(env.stasis, "hook", "uninstall")
        start("--annotation", f"{ANNOTATION}={image}", "busybox:test", "/bin/sleep", "100")
        expect(p.sh("busybox tr '\\0' ' ' </proc/1/cmdline").startswith("/bin/sleep"), "there is still a hook")
