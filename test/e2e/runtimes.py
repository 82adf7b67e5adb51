"""The runtimes that start a container from a checkpoint, each in its own words.

For `with RUNTIME(c) as host`, where c is a container that was checkpointed under runc and is gone. A
runtime's `label` is that of its tests; `confine` alters the container's config.json before the
checkpoint and `fit` before the start, where the runtime wants something else than runc does.
"""
import contextlib
import ctypes
import json
import os
import pathlib
import re
import subprocess

from containerd import Containerd
from crun import Crun
from harness import expect, run, wait_for
from in_place import restore_log
from podman import Podman

SET_CHILD_SUBREAPER = 36


def exit_code(status):
    """As a shell would tell it."""
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


class Runtime:
    """What stasis calls the container is `name`."""

    label = "long"

    def __init__(self, c):
        self.c, self.name = c, c.name

    @staticmethod
    def confine(config):
        pass

    @staticmethod
    def fit(config):
        pass

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        pass


class Adopting(Runtime):
    """Of a detached container: its init becomes our child, as its exit code is for its parent alone."""

    def __enter__(self):
        ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1)
        return self

    def __exit__(self, kind, value, trace):
        ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 0)
        self.remove()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:  # the watcher was adopted, too
                pass


class Create(Adopting):
    """runc create, runc start."""

    label = "e2e"

    def start(self, ok=True):
        with open(self.c.dir / "said", "w") as self.c.stdout:
            self.c.runc("create", "--bundle", self.c.bundle, self.name)
            self.c.runc("start", self.name, ok=ok)
        self.c.stdout = None

    def told(self):
        return (self.c.dir / "said").read_text()

    def exec(self, *command):
        return run("runc", "exec", self.name, *command).stdout

    def kill(self):
        init = self.c.init()
        run("runc", "kill", self.name, "KILL")
        return exit_code(os.waitpid(init, 0)[1])

    def remove(self):
        self.c.delete()


class Run(Create):
    """runc run, in the foreground."""

    process = None

    def start(self, ok=True):
        with open(self.c.dir / "said", "w") as said:
            self.process = subprocess.Popen(["runc", "run", "--bundle", self.c.bundle, self.name],
                                            stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        if ok:
            wait_for("the container", lambda: (self.c.state() or {}).get("status") == "running")
        else:
            expect(self.process.wait(20) != 0, "runc run went well")

    def kill(self):
        run("runc", "kill", self.name, "KILL")
        return self.process.wait(20)

    def remove(self):
        self.c.delete()
        if self.process:
            self.process.wait(20)


class CrunStart(Adopting):
    """crun create, crun start, which passes over what its hooks say and end with."""

    def __init__(self, c):
        super().__init__(c)
        self.crun = Crun(c)

    @staticmethod
    def fit(config):
        config["mounts"] = [m for m in config["mounts"] if m["type"] != "cgroup"]

    def start(self, ok=True):
        self.crun("create", "--bundle", self.c.bundle, self.name)
        self.crun("start", self.name)
        status = self.crun.state()["status"]
        expect(status == ("running" if ok else "stopped"), f"it is {status}\n{restore_log(self.c)}")

    def told(self):
        return (self.c.dir / "crun-create.out").read_text()  # where the container writes

    def exec(self, *command):
        return self.crun("exec", self.name, *command)

    def kill(self):
        init = self.crun.state()["pid"]
        self.crun("kill", self.name, "KILL")
        return exit_code(os.waitpid(init, 0)[1])

    def remove(self):
        self.crun("delete", "-f", self.name, ok=None)


class CtrRun(Runtime):
    """containerd's ctr run, with the bundle's config.json as its spec."""

    def __init__(self, c):
        super().__init__(c)
        self.ctr = Containerd(c.env)
        self.log, self.execs = c.dir / "log", 0

    def start(self, ok=True):
        self.ctr.run(self.c, "--log-uri", f"file://{self.log}", ok=ok)

    def told(self):
        return wait_for("what containerd's shim has copied", self.log.read_text, 10)

    def exec(self, *command):
        # ctr stops copying when it hears of the end, which may be before it has copied anything.
        def said():
            self.execs += 1
            return self.ctr("task", "exec", "--exec-id", f"exec-{self.execs}", self.name, *command).stdout
        return wait_for("what exec says", said, 10)

    def kill(self):
        said = self.ctr.kill(self.c)
        code = re.search(r"exit code (\d+)", said)
        expect(code, said)
        return int(code[1])

    def __exit__(self, *exception):
        self.ctr.__exit__(*exception)


class PodmanRun(Runtime):
    """podman run with the annotation: its default capabilities and seccomp filter, the bundle's root."""

    def __init__(self, c):
        super().__init__(c)
        self.podman = Podman(c.env)
        self.hooks = c.env.work / "hooks.d"
        run(c.env.stasis, "hook", "install", "--dir", self.hooks)

    @staticmethod
    def confine(config):
        """To what podman's defaults and the limits below allow."""
        for names in config["process"]["capabilities"].values():
            names.remove("CAP_AUDIT_WRITE")
        config["process"]["rlimits"] = [{"type": f"RLIMIT_{name}", "hard": 1000, "soft": 1000}
                                        for name in ("NOFILE", "NPROC")]

    def start(self, ok=True):
        config = json.loads((self.c.bundle / "config.json").read_text())
        options = ["--ulimit", "nofile=1000:1000", "--ulimit", "nproc=1000:1000", "--tmpfs", "/tmp"]
        for key, value in config["annotations"].items():
            options += ["--annotation", f"{key}={value}"]
        for mount in config["mounts"]:
            if mount["type"] == "bind":
                how = ":ro" if "ro" in mount["options"] else ""
                options += ["-v", f"{self.c.bundle / mount['source']}:{mount['destination']}{how}"]
        self.podman("--hooks-dir", self.hooks, "run", "-d", "--name", self.podman.name, "--network=none",
                    *options, "--rootfs", self.c.bundle / "rootfs", *config["process"]["args"], ok=ok)
        self.name = self.podman.id()
        if ok:
            init = self.podman("inspect", self.podman.name, "--format", "{{.State.Pid}}")
            expect("Seccomp:\t2" in pathlib.Path(f"/proc/{init}/status").read_text(), "no seccomp filter")

    def told(self):
        return run(*self.podman.command("logs", self.podman.name), env=self.podman.env).stderr

    def exec(self, *command):
        return run(*self.podman.command("exec", self.podman.name, *command), env=self.podman.env).stdout

    def kill(self):
        self.podman("kill", "-s", "KILL", self.podman.name)
        return int(self.podman("wait", self.podman.name))

    def __exit__(self, *exception):
        self.podman.__exit__(*exception)
        expect(exception[0] or not os.path.exists(f"/run/stasis/{self.name}"), "a record is left")


RUNTIMES = {"create": Create, "run": Run, "crun": CrunStart, "containerd": CtrRun, "podman": PodmanRun}
