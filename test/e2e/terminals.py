"""Terminals: the container's console, whose other end is outside, and pseudoterminals inside."""
import contextlib
import fcntl
import os
import re
import select
import shutil
import socket
import struct
import subprocess
import termios
import time

import faults
from harness import PATIENCE, Container, Skip, expect, run, scenario, wait_for
from in_place import from_checkpoint, restore_log
from podman import Podman
from userns import Mapped

SIZE = (33, 101)  # rows, columns


class Console:
    """The other end of a container's terminal, as a person at it would use it."""

    def __init__(self, c):
        self.path = str(c.dir / "console")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(4)
        self.master, self.seen = -1, ""

    def take(self):
        """The master that runc has sent."""
        self.hang_up()
        self.listener.settimeout(20 * PATIENCE)
        connection, _ = self.listener.accept()
        with connection:
            fds = []
            while not fds:
                message, fds, _, _ = socket.recv_fds(connection, 4096, 1)
                expect(message, "runc has sent no terminal")
        self.master, self.seen = fds[0], ""
        os.set_blocking(self.master, False)
        return self

    def hang_up(self):
        if self.master >= 0:
            os.close(self.master)
        self.master = -1

    def close(self):
        self.hang_up()
        self.listener.close()
        os.unlink(self.path)

    def type(self, text):
        os.write(self.master, text.encode())
        return self

    def wait_for(self, wanted, seconds=20):
        """Reads on until the output has a match of `wanted`; all up to there is taken."""
        pattern = re.compile(wanted, re.MULTILINE)
        end = time.monotonic() + seconds * PATIENCE
        while not (found := pattern.search(self.seen)):
            ready, _, _ = select.select([self.master], [], [], max(0, end - time.monotonic()))
            expect(ready, f"waited for {wanted!r} on a terminal that shows {self.seen[-500:]!r}")
            try:
                self.seen += os.read(self.master, 65536).decode(errors="replace").replace("\r", "")
            except OSError as error:
                # Nobody has it open; somebody may open it.
                expect(time.monotonic() < end, f"{error} instead of {wanted!r} on the terminal")
                time.sleep(0.05)
        self.seen = self.seen[found.end():]
        return self

    def run(self, command, wanted):
        return self.type(command + "\n").wait_for(wanted)

    def size(self):
        return struct.unpack("HHHH", fcntl.ioctl(self.master, termios.TIOCGWINSZ, bytes(8)))[:2]

    def set_size(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def with_bash(c):
    """Debian's bash with its libraries, in place of busybox' shell."""
    rootfs = c.bundle / "rootfs"
    bash = shutil.which("bash")
    shutil.copy(bash, rootfs / "bin/bash")
    for library in re.findall(r"(/\S+) \(0x", run("ldd", bash).stdout):
        place = rootfs / library.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, place)


def shell(config):
    config["process"]["terminal"] = True
    config["process"]["args"] = ["/bin/bash", "--norc", "--noprofile", "-i"]
    config["process"]["env"] += ["PS1=ready> ", "HISTFILE=/dev/null"]


@contextlib.contextmanager
def console_of(env, kind=Container):
    """A container with bash at a terminal, and us at the other end."""
    c = kind(env, change=shell)
    with_bash(c)
    with c:
        console = Console(c)
        c.runc("run", "-d", "--bundle", c.bundle, "--console-socket", console.path, c.name)
        console.take()
        try:
            console.set_size(*SIZE)
            console.wait_for("^ready> ")
            yield c, console
        finally:
            console.close()


def answers(console):
    console.run("echo $((6 * 7))", r"^42$").wait_for("^ready> ")
    console.run("stty size", rf"^{SIZE[0]} {SIZE[1]}$").wait_for("^ready> ")


def foreground_job_answers(console):
    """`cat` is in the foreground, `sleep` in the background."""
    console.type("back again\n").wait_for("^back again$").wait_for("^back again$")
    console.type("\x1a").wait_for(r"^\[2\]\+ +Stopped +cat$").wait_for("^ready> ")
    console.run("jobs", r"^\[1\]- +Running +sleep").wait_for(r"^\[2\]\+ +Stopped +cat$")
    console.wait_for("^ready> ")
    console.run("fg", "^cat$").type("once more\n").wait_for("^once more$").wait_for("^once more$")


def end_of_jobs(console):
    console.type("\x03").wait_for("^ready> ")
    console.run("jobs", r"^\[1\]\+ +Running +sleep").wait_for("^ready> ")
    # bash says at this prompt or not at all that the job was terminated.
    console.run("kill %1; wait; echo all; jobs; echo ended", r"^all\nended$").wait_for("^ready> ")


def come_back(c, console, door):
    image = c.checkpoint(door=door)
    c.gone()
    c.restore(image, "--console-socket", console.path, door=door)
    console.take()
    expect(console.size() == SIZE, f"the terminal's size is {console.size()}")


def console_round(env, door):
    with console_of(env) as (c, console):
        answers(console)
        console.run("sleep 1000 &", r"^\[1\] \d+$").wait_for("^ready> ")
        console.type("cat\n").wait_for("cat$")
        for _ in range(2):
            c.checkpoint("--leave-running", door=door)
            foreground_job_answers(console)
        for _ in range(2):
            come_back(c, console, door)
            foreground_job_answers(console)
        end_of_jobs(console)
        answers(console)
        # A program that draws on a raw terminal goes on drawing.
        console.run("top -d 1", "COMMAND")
        for _ in range(2):
            come_back(c, console, door)
            console.wait_for("COMMAND")
        console.type("q").wait_for("^ready> ")
        answers(console)
        # What was typed ahead waits on.
        console.run("mkfifo /tmp/gate; echo closed; cat /tmp/gate", "^closed$")
        # Only now readline has given the terminal back, which echoes by itself.
        console.type("echo $((5 * 5))\n").wait_for("5 . 5")
        come_back(c, console, door)
        with open(f"/proc/{c.init()}/root/tmp/gate", "w", encoding="ascii"):
            pass  # it opens, and cat ends
        console.wait_for("^25$").wait_for("^ready> ")
        come_back(c, console, door)  # at the prompt, which readline has raw
        answers(console)
    c.gone()


@scenario
def console(env):
    """bash at the container's terminal goes on, with its jobs, under `runc --criu stasis`."""
    console_round(env, "runc")


@scenario
def console_closed(env):
    """No process holds the container's terminal open any more: it is still theirs afterwards."""
    with console_of(env) as (c, console):
        script = ("while :; do test -e /tmp/speak && rm /tmp/speak && echo here >/dev/tty; "
                  "sleep 0.1; done")
        console.type("trap '' HUP\n").wait_for("^ready> ")
        console.type(f"exec sh -c '{script}' </dev/null >/dev/null 2>&1\n")

        def speaks():
            expect(os.readlink(f"/proc/{c.init()}/fd/1") == "/dev/null", "it holds its terminal")
            run("runc", "exec", c.name, "touch", "/tmp/speak")
            console.wait_for("^here$")
        wait_for("the shell to close it",
                 lambda: os.readlink(f"/proc/{c.init()}/fd/1") == "/dev/null")
        speaks()
        for _ in range(2):
            come_back(c, console, "runc")
            speaks()
    c.gone()


@scenario
def console_cli(env):
    """The same by stasis checkpoint and stasis restore --console-socket."""
    env.only_stasis()
    console_round(env, "stasis")


def ptys_round(env, kind):
    with kind(env, "terminals") as c:
        c.start()
        before = c.observe()
        for _ in range(2):
            c.checkpoint("--leave-running")
            c.ask().same_as(before)
        for _ in range(2):
            image = c.checkpoint()
            c.gone()
            c.restore(image).same_as(before)
            c.ask()
    c.gone()


@scenario
def terminals(env):
    """Pseudoterminals inside, left running twice and brought back twice."""
    ptys_round(env, Container)


@scenario
def userns_terminals(env):
    """The same, and the console, where root inside is nobody's root outside."""
    ptys_round(env, Mapped)
    with console_of(env, Mapped) as (c, console):
        console.run("sleep 1000 &", r"^\[1\] \d+$").wait_for("^ready> ")
        console.type("cat\n").wait_for("cat$")
        for _ in range(2):
            c.checkpoint("--leave-running")
            foreground_job_answers(console)
            come_back(c, console, "runc")
            foreground_job_answers(console)
        end_of_jobs(console)
    c.gone()


@scenario
def console_in_place(env):
    """A new container with a terminal goes on as the dumped one, twice."""
    env.only_stasis()
    with console_of(env) as (c, console):
        console.run("sleep 1000 &", r"^\[1\] \d+$").wait_for("^ready> ")
        console.type("cat\n").wait_for("cat$")
        for _ in range(2):
            image = c.checkpoint()
            c.gone()
            from_checkpoint(c, image)
            c.runc("create", "--bundle", c.bundle, "--console-socket", console.path, c.name)
            console.take()
            c.runc("start", c.name)
            expect(console.size() == SIZE, f"the terminal's size is {console.size()}")
            foreground_job_answers(console)
        end_of_jobs(console)
        answers(console)
        image = c.checkpoint()
        c.gone()
        from_checkpoint(c, image, without_terminal)
        c.runc("create", "--bundle", c.bundle, c.name)
        c.runc("start", c.name, ok=False)
        expect('restore the terminal /dev/pts/0' in restore_log(c), restore_log(c))
    c.gone()


def without_terminal(config):
    config["process"]["terminal"] = False


class OurTerminal(Console):
    """A terminal of ours that a command is called from."""

    def __init__(self):
        self.master, self.slave = os.openpty()
        self.seen = ""
        os.set_blocking(self.master, False)
        settings = termios.tcgetattr(self.slave)
        settings[3] &= ~termios.ECHO
        termios.tcsetattr(self.slave, termios.TCSANOW, settings)

    def call(self, *command):
        return subprocess.run([str(word) for word in command], stdin=self.slave, stdout=self.slave,
                              stderr=self.slave, timeout=60 * PATIENCE, check=False).returncode

    def close(self):
        self.hang_up()
        os.close(self.slave)


@scenario
def shell_job(env):
    """A container on the terminal of whoever started it: refused, or brought back to another."""
    env.only_stasis()

    def reader(config):
        config["process"]["args"] = ["/bin/cat"]
    with Container(env, change=reader) as c:
        ours = OurTerminal()
        code = ours.call("runc", "run", "-d", "--bundle", c.bundle, c.name)
        expect(code == 0, f"runc run: {code}")
        ours.type("hello\n").wait_for("^hello$")
        refused = c.stasis("checkpoint", c.name, "--image", c.dir / "refused", ok=False).stderr
        expect("holds the terminal /dev/pts/" in refused and "--shell-job" in refused, refused)
        for number in range(2):
            image = c.dir / f"image-{number}"
            c.stasis("checkpoint", c.name, "--image", image, "--shell-job", "--leave-running")
            ours.type("still here\n").wait_for("^still here$")
            c.stasis("checkpoint", c.name, "--image", image, "--shell-job")
            c.gone()
            if number == 0:
                refused = c.stasis("restore", c.name, "--image", image, ok=False).stderr
                expect("standard input is no terminal" in refused, refused)
                os.unlink(f"/run/stasis/{c.name}.restore.log")
            ours.close()
            ours = OurTerminal()
            code = ours.call(env.stasis, "restore", c.name, "--image", image)
            expect(code == 0, f"stasis restore in a terminal: {code}")
            ours.type("back\n").wait_for("^back$")
        ours.close()
    c.gone()


# Where data waits a dump takes it out and puts it back: nothing helps against a kill just then.
for _how, _state in ((faults.FAIL, ()), (faults.KILL, ("idle",))):
    for _sweep in (faults.sweep_dump, faults.sweep_restore):
        def _register(sweep=_sweep, how=_how, state=_state):
            word = "fail" if how == faults.FAIL else "kill"

            @scenario(name=f"{sweep.__name__[6:]}_{word}_terminals", seconds=300)
            def go(env):
                sweep(env, "terminals", how, faults.SAMPLE,
                      lambda e, program, **keywords: Container(e, program, *state, **keywords))
        _register()


@scenario(label="interop", name="terminals_criu")
def with_criu(env):
    """The console with its jobs, from CRIU's image and to it."""
    env.only_stasis()
    peer = env.peers and os.path.join(env.peers, "criu-4.2")
    if not peer or not os.path.exists(peer):
        raise Skip("no criu-4.2; test/interop/get-criu brings it")
    for dumper, restorer in ((env.stasis, peer), (peer, env.stasis)):
        with console_of(env) as (c, console):
            console.run("sleep 1000 &", r"^\[1\] \d+$").wait_for("^ready> ")
            console.type("cat\n").wait_for("cat$")
            c.env = env.with_engine(dumper)
            image = c.checkpoint()
            c.gone()
            c.env = env.with_engine(restorer)
            c.restore(image, "--console-socket", console.path)
            console.take()
            expect(console.size() == SIZE, f"the terminal's size is {console.size()}")
            console.type("back again\n").wait_for("^back again$").wait_for("^back again$")
            if restorer == env.stasis:  # CRIU gives only bash the terminal back, not its jobs
                foreground_job_answers(console)
        c.gone()


@scenario(label="long")
def podman_terminal(env):
    """A container of `podman run -t` is attached to before and after."""
    env.only_stasis()
    with Podman(env) as p:
        p.import_busybox()
        p("run", "-dt", "--name", p.name, "--network=none", "--ulimit", "nofile=1000:1000",
          "--ulimit", "nproc=1000:1000", "busybox:test", "/bin/sh", "-c",
          "while read x; do echo got $x; done")
        for number in range(3):
            ours = OurTerminal()
            attached = subprocess.Popen(p.command("attach", p.name), stdin=ours.slave,
                                        stdout=ours.slave, stderr=ours.slave, env=p.env)
            ours.type(f"{number}\n").wait_for(f"^got {number}$")
            attached.kill()
            attached.wait()
            ours.close()
            p("container", "checkpoint", p.name)
            p("container", "restore", p.name)
