"""Starts from a checkpoint that fail, that are given up, and many at once: nothing is ever left behind."""
import os
import shutil
import subprocess

from harness import Container, Failure, Skip, expect, run, scenario, wait_for
from in_place import checkpointed, from_checkpoint, no_watcher, restore_log, start, watchers
from userns import hand_over, map_users


def refusal(c, *args):
    """What runc, and the log of the container, say of a command that has to fail."""
    with open(c.dir / "out", "w+") as out:
        result = subprocess.run(["runc", *args], stdin=subprocess.DEVNULL, stdout=out,
                                        stderr=out, timeout=60, check=False)
        expect(result.returncode != 0, f"runc {' '.join(map(str, args))} went well")
        out.seek(0)
        return out.read()


def refused(c, said, *texts):
    """It told why, and nothing is left."""
    for text in texts:
        expect(text in said, f"expected \"{text}\", runc says: {said}")
    c.delete()
    no_watcher(c)
    c.gone()


@scenario
def in_place_refused(env):
    """What doesn't fit is told by the create that it makes fail, and nothing is left."""
    env.only_stasis()
    c, image = checkpointed(env)
    with c:
        def fails(image, text, change=lambda config: None):
            from_checkpoint(c, image, change)
            refused(c, refusal(c, "create", "--bundle", c.bundle, c.name), text)
        fails(c.dir / "nowhere", "nowhere")
        os.makedirs("/var/lib/stasis/checkpoints", exist_ok=True)
        fails("../image-1", "Invalid cross-device link")
        fails("nameless", "there is none of that name")
        image.chmod(0o777)
        fails(image, "others than root may write to")
        image.chmod(0o700)
        os.chown(image / "core-1.img", 1, 1)
        fails(image, "core-1.img doesn't belong to root")
        os.chown(image / "core-1.img", 0, 0)
        link = c.dir / "link"
        link.symlink_to(image)
        fails(link, "Too many levels of symbolic links")

        def without_kill(config):
            for names in config["process"]["capabilities"].values():
                names.remove("CAP_KILL")
        fails(image, "it had CAP_KILL, which config.json doesn't give", without_kill)

        def without_pids(config):
            for names in config["process"]["capabilities"].values():
                names.append("CAP_KILL")
            config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"]
                                             if n["type"] != "pid"]
        fails(image, "no pid namespace of its own", without_pids)


@scenario
def in_place_other_users(env):
    """Users that stand for others outside than at the checkpoint."""
    env.only_stasis()
    with Container(env, "threads", change=map_users) as c:
        hand_over(c)
        c.start()
        image = c.checkpoint()
        c.gone()

        def shifted(config):
            for name in ("uidMappings", "gidMappings"):
                config["linux"][name][0]["size"] -= 1
        from_checkpoint(c, image, shifted)
        refused(c, refusal(c, "create", "--bundle", c.bundle, c.name),
                "the user namespace maps uids otherwise", "linux.uidMappings")

        def nobody(config):
            config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] != "user"]
            del config["linux"]["uidMappings"], config["linux"]["gidMappings"]
        from_checkpoint(c, image, nobody)
        refused(c, refusal(c, "create", "--bundle", c.bundle, c.name), "config.json has none")


@scenario
def in_place_fails_at_start(env):
    """A file of the root that has changed makes the create fail, what is found later the start; the
    reason of that is in the container's log."""
    env.only_stasis()
    c, image = checkpointed(env, "files")
    with c:
        from_checkpoint(c, image)
        program = c.bundle / "rootfs/files"
        whole = program.read_bytes()

        program.write_bytes(whole + b"more")
        refused(c, refusal(c, "create", "--bundle", c.bundle, c.name),
                "stasis: cannot restore file /files: its size is", "bring back the file")
        program.write_bytes(whole)
        c.data.rename(c.dir / "away")
        c.data.mkdir()
        refused(c, refusal(c, "run", "--bundle", c.bundle, c.name),
                "stasis: cannot restore file /data/", "No such file or directory")
        c.data.rmdir()
        (c.dir / "away").rename(c.data)
        start(c)
        c.ask()


@scenario
def in_place_given_up(env):
    """create and delete; the watcher killed; the init killed: nothing is left."""
    env.only_stasis()
    c, image = checkpointed(env)
    with c:
        from_checkpoint(c, image)
        c.runc("create", "--bundle", c.bundle, c.name)
        expect(len(watchers(c)) == 1, f"not one watcher: {watchers(c)}")
        c.runc("delete", "-f", c.name)
        no_watcher(c)
        c.gone()
        c.runc("create", "--bundle", c.bundle, c.name)
        os.kill(watchers(c)[0], 9)
        wait_for("the container's end", lambda: c.state()["status"] == "stopped")
        refusal(c, "start", c.name)
        c.runc("delete", c.name)
        c.gone()
        c.runc("create", "--bundle", c.bundle, c.name)
        c.runc("kill", c.name, "KILL")
        no_watcher(c)
        c.runc("delete", c.name)
        c.gone()
        start(c)
        c.ask()


def faults(env, what, numbers, pack=lambda c, image: image, clean=lambda c: None, arm=from_checkpoint,
           started_anew=lambda c: False):
    """With the hook's Nth kernel call failing, or the last thing that it does: the container starts
    from its checkpoint or not at all, the runtime knows which, and nothing is left."""
    c, image = checkpointed(env.with_engine(env.faults), "tree")
    outcomes = {True: 0, False: 0}
    with c:
        image = pack(c, image)
        saved = c.dir / "saved"
        c.data.rename(saved)
        for number in numbers:
            shutil.rmtree(c.data, ignore_errors=True)
            shutil.copytree(saved, c.data)

            def change(config, number=number):
                config["hooks"]["createRuntime"][-1]["env"] = [f"STASIS_{what}_AT={number}"]
            arm(c, image, change)
            out = c.dir / "out"
            with open(out, "w") as said:
                code = subprocess.run(
                    ["runc", "run", "-d", "--bundle", c.bundle, c.name], timeout=60, check=False,
                    stdin=subprocess.DEVNULL, stdout=said, stderr=said).returncode
            try:
                # Letting go of the tasks is the last step: should it fail, they are killed,
                # and who is killed then takes them along.
                let_go = wait_for("the outcome", lambda: outcome(c) or started_anew(c), 5) if code == 0 else None
                if let_go == "anew":
                    c.delete()
                elif let_go == "running":
                    c.ask()
                elif let_go:
                    end = "cannot let go" if what == "FAIL" else "goes on"
                    expect(end in restore_log(c), "it stopped for no reason")
                else:
                    expect((c.state() or {}).get("status") in (None, "stopped"), "it runs")
                no_watcher(c)
            except Failure as failure:
                raise Failure(f"call {number} {what}: {failure}\n{out.read_text()}") from None
            outcomes[code == 0] += 1
            c.delete()
            try:
                c.gone()
                clean(c)
            except Failure as failure:
                raise Failure(f"call {number} {what}: {failure}\n{out.read_text()}") from None
    return outcomes


def outcome(c):
    """"stopped", or "running" when the watcher has ended."""
    status = c.state()["status"]
    return status if status == "stopped" or not watchers(c) else None


def some(first, last, count):
    """Numbers between them, denser at the end, where the container is taken over."""
    return sorted({round(last - (last - first) * (i / count) ** 2) for i in range(count + 1)})


@scenario(seconds=300)
def in_place_faults(env):
    """A sample of the calls; in_place_faults_long takes more."""
    _faults(env, 8)


@scenario(label="long", seconds=3000, name="in_place_faults_long")
def in_place_faults_long(env):
    _faults(env, 150)


def _faults(env, count):
    env.only_stasis()
    if not env.faults:
        raise Skip("needs stasis-faulty")
    for what in ("FAIL", "KILL"):
        outcomes = faults(env, what, some(10, 4600, count))
        expect(outcomes[False] > count // 3, f"{what}: hardly a call has failed: {outcomes}")


def clones(env, program, count, at_once):
    """`count` containers of one checkpoint, each with a name and data of its own."""
    base, image = checkpointed(env, program)
    with base:
        def clone(number):
            c = Container(env, program)
            shutil.copytree(base.data, c.data, dirs_exist_ok=True)

            def change(config):
                config["hostname"] = f"clone-{number}"
            from_checkpoint(c, image, change)
            return c
        todo = [clone(n) for n in range(count)]
        try:
            processes = []
            for c in todo:
                with open(c.dir / "said", "w") as said:
                    processes.append((c, subprocess.Popen(
                        ["runc", "run", "-d", "--bundle", c.bundle, c.name],
                        stdin=subprocess.DEVNULL, stdout=said, stderr=said)))
                if not at_once:
                    processes[-1][1].wait(60)
            for number, (c, process) in enumerate(processes):
                expect(process.wait(60) == 0,
                       f"runc: {(c.dir / 'said').read_text()}\n{restore_log(c)}")
                c.ask()
                name = run("runc", "exec", c.name, "/bin/hostname").stdout.strip()
                expect(name == f"clone-{number}", f"another host name: {name}")
        finally:
            for c in todo:
                c.delete()
        for c in todo:
            no_watcher(c)
            c.gone()


@scenario
def in_place_clones(env):
    """Several containers from one checkpoint at the same time."""
    env.only_stasis()
    clones(env, "threads", 6, True)


@scenario(label="long", seconds=600)
def in_place_many_clones(env):
    """20 at once, and 100 in a row."""
    env.only_stasis()
    clones(env, "tree", 20, True)
    clones(env, "counter", 100, False)
