"""Programs that start from a checkpoint, under each of the runtimes."""
import dataclasses

from harness import Container, expect, scenario
from in_place import from_checkpoint, no_watcher, restore_log
from runtimes import RUNTIMES, Create
from scenarios import more_caps
from userns import hand_over, map_users


def unchanged(config):
    """As bundle.py makes it."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A program of test/programs, or of the bundle."""
    program: str = None
    args: tuple = ()
    change: callable = unchanged  # config.json of the container that is checkpointed
    prepare: callable = lambda c: None  # its files
    look: callable = lambda c, host, stood: c.ask()  # it has gone on from there, `stood` numbers
    placeholder: bool = False  # what config.json names at the start is another program
    options: tuple = ()  # of the checkpoint
    ignore: tuple = ()  # what may differ, seen from outside
    still: bool = True  # it looks the same at all times


# What is special about a container.

def as_user(config):
    config["process"]["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [1001, 7]}


def may_gain_privileges(config):
    config["process"]["noNewPrivileges"] = False
    config["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["swapon", "swapoff", "reboot"], "action": "SCMP_ACT_ERRNO"}]}


def no_capabilities(config):
    config["process"]["capabilities"] = {kind: [] for kind in config["process"]["capabilities"]}


def below_a_shell(config):
    """The init and its child are different programs."""
    program = config["process"]["args"][0]
    config["process"]["args"] = ["/bin/sh", "-c", f"sleep 1000 & {program} & wait"]


PYTHON = """
import itertools, threading, time
shown = open("/data/counter", "a", buffering=1)
state, lock = {"i": 0}, threading.Lock()
def count():
    while True:
        with lock:
            state["i"] += 1
            shown.write(f"{state['i']}\\n")
        time.sleep(0.02)
threading.Thread(target=count).start()
count()
"""


def python(config):
    """A large program with shared libraries and threads."""
    config["process"]["args"] = ["/usr/bin/python3", "-c", PYTHON]
    for path in ("/usr", "/lib", "/lib64"):
        config["mounts"].append({"destination": path, "type": "bind", "source": path,
                                 "options": ["rbind", "ro"]})


def demo_goes_on(c, host, stood):
    c.counts_on(stood)
    note = host.exec("/bin/cat", "/tmp/note")
    expect("written at the start" in note, f"the tmpfs holds {note!r}")


def python_goes_on(c, host, stood):
    c.counts_on(stood, 20)


# Under every runtime. A later program is one more line.
PROGRAMS = {
    "demo": Row(look=demo_goes_on, placeholder=True, still=False),  # a script, a pipe, a tmpfs
    "threads": Row("threads"),
    "python": Row(change=python, look=python_goes_on, placeholder=True),
    "tree_of_50": Row("tree", args=("50",)),
}

# Kinds of state that don't depend on the runtime: with runc create alone.
FEATURES = {name: Row(name) for name in (
    "counter", "memory", "clock", "signals", "tree", "limits", "files", "pipes", "sysv", "undo", "huge",
    "novdso", "unix_sockets", "memfd", "handles", "futex", "sleepers")}
FEATURES |= {f"{name}_mapped": Row(name, change=map_users, prepare=hand_over)  # its root is another uid
             for name in ("threads", "tree", "files", "limits")}
FEATURES |= {
    "mqueue": Row("mqueue", ignore=("/fds/3", "/fds/4", "/fds/5")),
    "names": Row("names", ignore=("/fds/3",)),
    "locks": Row("locks", options=("--file-locks",)),
    "timers": Row("timers", ignore=("/ShdPnd",)),  # which go on firing while we look
    "confined": Row("confined", change=more_caps),
    "threads_as_user": Row("threads", change=as_user),
    "threads_no_capabilities": Row("threads", change=no_capabilities),
    "tree_no_capabilities": Row("tree", change=no_capabilities),
    "crowd": Row("crowd", args=("100",)),
    "tree_may_gain_privileges": Row("tree", change=may_gain_privileges),
    "threads_below_a_shell": Row("threads", change=below_a_shell),
    "tree_below_a_shell": Row("tree", change=below_a_shell),
}


def checkpointed(c, row, runtime):
    """It is to start from its checkpoint; returns what it looked like."""
    row.prepare(c)
    c.start()
    # Under the others mounts, or descriptors, aren't the same.
    before = c.observe() if runtime is Create and row.still else None
    image = c.checkpoint(*row.options)
    c.gone()

    def change(config):
        runtime.fit(config)
        if row.placeholder:
            config["process"]["args"] = ["/bin/sleep", "100"]
    from_checkpoint(c, image, change)
    return before


def bundle_for(env, row, runtime):
    def change(config):
        runtime.confine(config)
        row.change(config)
    return Container(env, row.program, *row.args, change=change)


def cell(name, row, how, runtime):
    @scenario(name=f"in_place_{name}_{how}", label=runtime.label)
    def go(env):
        """It goes on where it stood; exec, kill and exit code are as for any container."""
        env.only_stasis()
        with bundle_for(env, row, runtime) as c, runtime(c) as host:
            before = checkpointed(c, row, runtime)
            stood = len(c.numbers())
            host.start()
            if before:
                c.same_as(before, row.ignore)
            if runtime is Create:
                told = [line for line in restore_log(c).splitlines() if "at the checkpoint" in line]
                expect(not told, f"differences: {told}")
            row.look(c, host, stood)
            no_watcher(host)
            said = host.exec("/bin/echo", "here")
            expect(said == "here\n", f"exec says {said!r}")
            code = host.kill()
            expect(code == 137, f"exit code {code}")
        c.gone()


def late_failure(how, runtime):
    @scenario(name=f"in_place_told_{how}", label=runtime.label)
    def go(env):
        """A file that is missing on a mount fails the start, and its user reads why."""
        env.only_stasis()
        row = FEATURES["files"]
        with bundle_for(env, row, runtime) as c, runtime(c) as host:
            checkpointed(c, row, runtime)
            c.data.rename(c.dir / "away")
            c.data.mkdir()
            host.start(ok=False)
            said = host.told()
            expect("stasis: cannot restore file /data/" in said, f"it says {said!r}")
            no_watcher(host)
        c.gone()


for _how, _runtime in RUNTIMES.items():
    late_failure(_how, _runtime)
    for _name, _row in PROGRAMS.items():
        cell(_name, _row, _how, _runtime)
for _name, _row in FEATURES.items():
    cell(_name, _row, "create", Create)
