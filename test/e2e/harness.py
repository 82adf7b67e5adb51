"""What every scenario stands on: containers that are made, driven, questioned and cleaned up.

A scenario is a function with @scenario; it gets an Env and raises Failure when something is not as
it should be. Env knows the binaries under test; Container is one runc container of a test program.
"""
import contextlib
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "bundles"))
import bundle  # noqa: E402
import observe  # noqa: E402

SCENARIOS = {}
PREFIX = "stasis-test-"
MARK = f"STASIS_TEST={os.getpid()}-{time.monotonic_ns()}"  # in the environment of what we start
PATIENCE = int(os.environ.get("STASIS_TEST_PATIENCE", "1"))  # on an emulated machine all takes longer


class Failure(Exception):
    pass


class Skip(Exception):
    pass


def scenario(function=None, *, label="e2e", seconds=180, name=None):
    """Registers a function as scenario LABEL.NAME for ctest."""
    def register(f):
        stem = name or f.__name__
        SCENARIOS[f"{'e2e' if label == 'long' else label}.{stem}"] = (f, label, seconds)
        return f
    return register(function) if function else register


def expect(holds, message):
    if not holds:
        raise Failure(message)


def run(*command, ok=True, timeout=120, env=None, **keywords):
    """Runs a command; a failure (or success, with ok=False; None: either) is a Failure."""
    command = [str(c) for c in command]
    if "input" not in keywords:
        keywords["stdin"] = subprocess.DEVNULL
    result = subprocess.run(command, capture_output=True, text=True,
                            errors="replace", timeout=timeout * PATIENCE, check=False,
                            env={**os.environ, **(env or {})}, **keywords)
    if ok is not None and (result.returncode == 0) != ok:
        raise Failure(f"$ {' '.join(command)}\nexit code {result.returncode}\n"
                      f"{result.stdout[-3000:]}{result.stderr[-3000:]}")
    return result


def wait_for_end(process, seconds):
    """Popen.wait with a limit looks only every now and then, up to 50 ms late: no way to measure."""
    pidfd = os.pidfd_open(process.pid)
    try:
        if not select.select([pidfd], [], [], seconds)[0]:
            process.kill()
            raise Failure(f"$ {' '.join(process.args)}\nstill ran after {seconds} s")
    finally:
        os.close(pidfd)
        process.wait()


def wait_for(what, condition, seconds=20):
    end = time.monotonic() + seconds * PATIENCE
    while True:
        value = condition()
        if value:
            return value
        expect(time.monotonic() < end, f"waited {seconds} s for {what}")
        time.sleep(0.005)


class Env:
    """The binaries under test and a directory to work in."""

    def __init__(self, options, work):
        self.stasis = options.stasis
        self.criu = options.criu or options.stasis  # what runc gets as --criu
        # CRIU through runc brings a read-only root back writable, cgroup mounts with the host's
        # groups in them, and the loopback down.
        self.deviations = ("/mounts", "/network") if options.criu else ()
        self.asan, self.faults, self.peers = options.asan, options.faults, options.peers
        self.programs = pathlib.Path(options.programs)
        self.work = pathlib.Path(work)
        self.keep = options.keep

    def only_stasis(self):
        """For scenarios that make no sense with another engine."""
        if not self.stasis:
            raise Skip("needs stasis")

    def with_engine(self, binary):
        """The same with another binary as the engine."""
        other = object.__new__(Env)
        other.__dict__.update(self.__dict__, stasis=binary, criu=binary)
        return other


class Container:
    """A container of a test program (or of the demo's script), from its bundle on."""

    def __init__(self, env, program=None, *args, hooks=True, change=lambda config: None, stdout=None):
        self.env, self.stdout = env, stdout
        self.name = f"{PREFIX}{program or 'demo'}-{os.getpid()}-{time.monotonic_ns() % 1000000}"
        self.dir = env.work / self.name
        self.bundle, self.data = self.dir / "bundle", self.dir / "bundle/data"
        self.program, self.args, self.words = program, args, 0
        self.images = 0
        bundle.lay_out(self.bundle, env.stasis if hooks and env.stasis else None,
                       env.programs / program if program else None, args, change)

    # Life

    def start(self):
        self.runc("run", "-d", "--bundle", self.bundle, self.name)
        return self.ready()

    def ready(self):
        if self.program:
            wait_for("the program to set itself up", lambda: (self.data / "ready").exists())
            text = (self.data / "ready").read_text()
            expect(text == "ready\n", f"the program can't set itself up here: {text}")
        else:
            wait_for("the first number", lambda: self.numbers())
        return self

    def runc(self, *args, ok=True, env=None, timeout=120):
        """runc with the engine as --criu. A detached container holds runc's stdio, so no pipe of ours."""
        log = self.dir / f"runc-{args[0]}.log"
        command = ["runc", "--criu", self.env.criu, "--log", log, *args]
        command = [str(c) for c in command]
        stdout = self.stdout if self.stdout is not None else subprocess.DEVNULL
        result = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout,
                                  stderr=stdout, env={**os.environ, **(env or {})})
        wait_for_end(result, timeout * PATIENCE)
        if ok is not None and (result.returncode == 0) != ok:
            raise Failure(f"$ {' '.join(command)}\nexit code {result.returncode}\n"
                          f"{log.read_text()[-2000:] if log.exists() else ''}\n{self.engine_logs()}")
        return result

    def engine_logs(self):
        """What the engine logged: the errors and warnings, else the end."""
        text = ""
        for path in sorted((self.dir / "work").glob("*.log")):
            lines = path.read_text(errors="replace").splitlines()
            telling = [line for line in lines if "Error" in line or "Warn" in line]
            text += "\n".join([f"--- {path.name}", *(telling or lines)[-15:]]) + "\n"
        return text

    def stasis(self, *args, ok=True, env=None):
        return run(self.env.stasis, *args, ok=ok, env=env)

    def checkpoint(self, *options, door="runc", ok=True, env=None, image=None):
        """Returns the image's directory."""
        if image is None:
            self.images += 1
            image = self.dir / f"image-{self.images}"
        self.work_dir = self.dir / "work"
        if door == "runc":
            self.runc("checkpoint", "--image-path", image, "--work-path", self.work_dir, *options,
                      self.name, ok=ok, env=env)
        else:
            self.stasis("checkpoint", self.name, "--image", image, *options, ok=ok, env=env)
        return image

    def restore(self, image, *options, door="runc", ok=True, env=None, bundle_dir=None):
        # The program may have been reading the question, which therefore stays.
        (self.data / "answer").unlink(missing_ok=True)
        bundle_dir = bundle_dir or self.bundle
        if door == "runc":
            self.runc("restore", "-d", "--image-path", image, "--work-path", self.dir / "work",
                      "--bundle", bundle_dir, *options, self.name, ok=ok, env=env)
        else:
            self.stasis("restore", self.name, "--image", image, "--bundle", bundle_dir, *options,
                        ok=ok, env=env)
        return self

    def comes_back(self, before, door="runc", ignore=(), times=1):
        """Checkpoint and restore; nothing is left in between and nothing differs afterwards."""
        for _ in range(times):
            image = self.checkpoint(door=door)
            self.gone()
            self.restore(image, door=door).same_as(before, ignore)
            self.ask()
        return self

    def goes_back_to(self, image, door="stasis"):
        """It is killed, and comes back as it was at that checkpoint."""
        self.delete()
        wait_for("the container's end", lambda: not self.leavings())
        return self.restore(image, door=door).ask()

    def goes_through_all(self, look=None):
        """Two checkpoints that it goes on after, two that it comes back from; `look` before and after
        each, or the program verifies itself."""
        look = look or self.ask
        for options in (["--leave-running"], ["--leave-running"], [], []):
            look()
            image = self.checkpoint(*options)
            if not options:
                self.gone()
                self.restore(image)
        look()
        return self

    def delete(self):
        run("runc", "delete", "-f", self.name, ok=None)

    # Questions

    def state(self):
        result = run("runc", "state", self.name, ok=None)
        return json.loads(result.stdout) if result.returncode == 0 else None

    def init(self):
        state = self.state()
        expect(state and state["pid"], f"{self.name} has no init: {state}")
        return state["pid"]

    def ask(self, seconds=30):
        """The program verifies itself and says it is whole."""
        self.words += 1
        word = f"word{self.words}-{time.monotonic_ns()}"
        (self.data / "ask.new").write_text(word)
        (self.data / "ask.new").rename(self.data / "ask")

        def answer():
            with contextlib.suppress(FileNotFoundError):
                text = (self.data / "answer").read_text()
                return text if text.startswith(word + " ") else None
        text = wait_for(f"{self.name} to answer", answer, seconds)
        expect(text == f"{word} ok\n", f"the program says: {text[len(word):].strip()}")
        return self

    def numbers(self):
        """The demo's counter file."""
        with contextlib.suppress(FileNotFoundError):
            return [int(line) for line in (self.data / "counter").read_text().split()]
        return []

    def counts_on(self, stood, more=5):
        """The demo's counter goes on from there; no number is lost or doubled."""
        wait_for("the counter to go on", lambda: len(self.numbers()) > stood + more)
        numbers = self.numbers()
        expect(numbers == list(range(1, len(numbers) + 1)), f"numbers lost or doubled: {numbers}")

    def observe(self):
        """The outside view, of a moment in which nothing moves."""
        last, deadline = None, time.monotonic() + 20 * PATIENCE
        while time.monotonic() < deadline:
            # runc gives up early on a cgroup v1 freezer whose tasks are many and busy.
            if run("runc", "pause", self.name, ok=None).returncode != 0:
                time.sleep(0.05)
                continue
            try:
                view = observe.container(self.init())
            except ProcessLookupError:
                continue
            finally:
                run("runc", "resume", self.name)
            if view == last:
                return view
            changed = observe.diff(last, view) if last else []
            last = view
            time.sleep(0.02)
        raise Failure("\n".join(["the container never looks the same twice:", *changed[:40]]))

    def same_as(self, before, ignore=()):
        """Nothing seen from outside differs; `ignore` names parts of places that may."""
        ignore = (*ignore, *self.env.deviations)
        lines = [line for line in observe.diff(before, self.observe())
                 if not any(part in line for part in ignore)]
        expect(not lines, "differs from before:\n" + "\n".join(lines[:40]))
        return self

    def gone(self):
        """The container's processes, mounts, cgroups and records are no more."""
        expect(self.state() is None, f"runc still knows {self.name}: {self.state()}")
        leavings = self.leavings()
        expect(not leavings, "left behind:\n" + "\n".join(leavings))
        return self

    def nothing_left(self):
        """Tasks that were killed may take a moment to end, on a busy machine a long one: runc tries for
        0.3 s to remove the cgroups that it has made, and gives up. One that is left so, and empty, isn't ours."""
        try:
            wait_for("the last traces to go", lambda: not self.leavings(), 5)
        except Failure:
            left = self.leavings()
            procs = list(pathlib.Path("/sys/fs/cgroup").glob(f"**/{self.name}/cgroup.procs"))
            if len(left) == len(procs) == 1 and not procs[0].read_text():
                procs[0].parent.rmdir()
                return
            members = [f"{path}: {path.read_text().split()}" for path in procs]
            raise Failure("left behind:\n" + "\n".join(left + members)) from None

    def leavings(self):
        found = []
        # os.walk passes over what other tests remove meanwhile.
        for directory, below, _ in os.walk("/sys/fs/cgroup"):
            if self.name in below:
                found.append(f"cgroup {directory}/{self.name}")
        for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
            if self.name in line:
                found.append(f"mount {line}")
        for record in (f"/run/stasis/{self.name}", f"/run/runc/{self.name}"):
            if os.path.exists(record):
                found.append(f"record {record}")
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if self.name in os.readlink(f"/proc/{pid}/root") or self.holds_mounts(pid):
                    found.append(f"process {pid}: {pathlib.Path(f'/proc/{pid}/cmdline').read_text()}")
        return found

    def holds_mounts(self, pid):
        """Whether a process sees the container's mounts, as one of its own does, or an engine that we
        started. Anybody's new mount namespace may hold a copy of what stood on the host for a moment."""
        lines = pathlib.Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
        places = [line.split()[3:5] for line in lines if self.name in line]
        if any(self.name in root and self.name not in point for root, point in places):
            return True
        return bool(places) and MARK.encode() in pathlib.Path(f"/proc/{pid}/environ").read_bytes()

    # Scope: with Container(...) as c

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.delete()
        if kind is None:
            self.nothing_left()
        if not self.env.keep:
            shutil.rmtree(self.dir, ignore_errors=True)


def main(argv):
    import argparse
    os.environ.update([MARK.split("=")])
    parser = argparse.ArgumentParser(description="Runs end-to-end scenarios, as root.")
    parser.add_argument("--list", action="store_true", help="names, labels and seconds at most")
    parser.add_argument("--stasis", help="the stasis binary")
    parser.add_argument("--criu", help="another engine for runc's --criu, to prove the scenarios on")
    parser.add_argument("--asan", help="a stasis built with sanitizers")
    parser.add_argument("--faults", help="a stasis built with fault injection")
    parser.add_argument("--peers", help="directory that test/interop/get-criu filled")
    parser.add_argument("--programs", help="directory of the test programs")
    parser.add_argument("--keep", action="store_true", help="keep the bundles and images")
    parser.add_argument("scenarios", nargs="*", help="names, or none for all but the long ones")
    options = parser.parse_args(argv)
    if options.list:
        for name, (_, label, seconds) in sorted(SCENARIOS.items()):
            print(name, label, seconds)
        return 0
    names = options.scenarios or [n for n, (_, label, _) in SCENARIOS.items() if label != "long"]
    for name in ("stasis", "criu", "asan", "faults", "peers", "programs"):
        if getattr(options, name):
            setattr(options, name, os.path.abspath(getattr(options, name)))
    codes = {run_scenario(name, options) for name in names}
    return 1 if 1 in codes else 77 if codes == {77} else 0


def run_scenario(name, options):
    function = SCENARIOS[name][0]
    start = time.monotonic()
    work = tempfile.mkdtemp(prefix=PREFIX)
    try:
        function(Env(options, work))
        code, verdict = 0, "ok"
    except Failure as failure:
        code, verdict = 1, f"FAILED: {failure}"
    except subprocess.TimeoutExpired as late:
        code, verdict = 1, f"FAILED: {late}"
    except OSError:
        code, verdict = 1, f"FAILED: {traceback.format_exc()}"
    except Skip as reason:
        code, verdict = 77, f"skipped: {reason}"
        allowed = os.environ.get("STASIS_STRICT")  # a file of names; unset: all
        if allowed and name not in pathlib.Path(allowed).read_text().split("\n"):
            code, verdict = 1, f"FAILED: skipped ({reason}), but {allowed} doesn't name it"
    finally:
        if options.keep:
            print(f"kept: {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)
    print(f"{name}: {verdict} ({time.monotonic() - start:.1f} s)", flush=True)
    return code
