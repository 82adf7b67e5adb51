"""What can't be restored in place is named when the container is made, and nothing is left of it."""
import os
import pathlib

from harness import Container, Failure, expect, run, scenario, wait_for
from in_place import from_checkpoint
from in_place_table import below_a_shell
from in_place_faults import refusal, refused
from inet import Connected
from mount_faults import Tree


def beside(words):
    """The program's first child is a process of that command line."""
    def change(config):
        for kind in ("bounding", "effective", "permitted"):
            config["process"]["capabilities"][kind].append("CAP_SYS_ADMIN")
        program = config["process"]["args"][0]
        config["process"]["args"] = ["/bin/sh", "-c", f"{words} & {program} & wait"]
    return change


def hide(c):
    run("nsenter", "-t", c.init(), "-m", "-p", "--", "mount", "-t", "tmpfs", "over", "/tmp/under")


# What it is: program, change of its config.json, what happens to it -> what is said.
ROWS = {
    "own mount namespace": ("threads", beside("unshare -m sleep 1000"), None,
                            "processes of it had mount namespaces of their own; use stasis restore for this checkpoint"),
    "hidden file": ("hidden", lambda config: None, hide, "is open, over which something was mounted"),
    "connection": ("tcp", lambda config: None, None, "it holds the TCP connection 127.0.0.1:"),
    "program in memory": ("inmemory", lambda config: None, None, "process 1 runs a program that lies in memory only"),
}


def refused_in_place(env, names):
    env.only_stasis()
    for name in names:
        program, change, happens, says = ROWS[name]
        kind = Connected if program == "tcp" else Container
        with kind(env, program, change=change) as c:
            try:
                c.start()
                if happens:
                    happens(c)
                image = c.checkpoint()
                c.gone()
                from_checkpoint(c, image)
                refused(c, refusal(c, "create", "--bundle", c.bundle, c.name), says)
                c.restore(image).ask()  # which is what they are good for
            except Failure as failure:
                raise Failure(f"{name}: {failure}") from None


@scenario
def in_place_refused_images(env):
    """Checkpoints that are good for `stasis restore` only."""
    refused_in_place(env, ROWS)


def children(pid):
    return set(map(int, pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


@scenario
def foreign_sessions(env):
    """A process that came from outside can't be made again: no checkpoint, and all go on. Where the
    first one has such a session, it can't be restored in place."""
    env.only_stasis()
    with Container(env, "threads", change=below_a_shell) as c:
        c.start()
        own = children(c.init())
        run("nsenter", "-t", c.init(), "-a", "/bin/sh", "-c", "sleep 1000 </dev/null >/dev/null 2>&1 &")
        guest, = wait_for("the guest", lambda: children(c.init()) - own)
        for door in ("runc", "stasis"):
            image = c.checkpoint(door=door, ok=False)
            expect(not (image / "inventory.img").exists(), "half a checkpoint is left")
            c.ask()
        c.checkpoint(ok=False)
        expect("belongs to a session outside of the container" in c.engine_logs(), c.engine_logs())
        os.kill(guest, 9)
        wait_for("its end", lambda: children(c.init()) == own)
        with Tree(env, "true") as tree:
            tree.dump("--shell-job", "--external", "mnt[]")
            c.checkpoint()
            from_checkpoint(c, tree.image)
            refused(c, refusal(c, "create", "--bundle", c.bundle, c.name),
                    "process 1 belongs to a session outside of it")
    c.gone()
