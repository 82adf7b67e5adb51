"""What people expect of a container holds for one that starts from a checkpoint, too."""
import contextlib
import json
import os
import pathlib
import shutil
import subprocess

from harness import Container, expect, run, scenario, wait_for
from in_place import checkpointed, from_checkpoint, no_watcher, restore_log, start, watchers
from in_place_faults import refusal, refused


@scenario
def in_place_output(env):
    """What it writes comes out of `runc run`, and its own exit code is that of runc, by signals too."""
    env.only_stasis()
    script = ("trap 'echo asked to end; exit 7' TERM; echo begins; >/data/ready; "
              "while read -r line; do echo \"heard $line\"; done; while :; do sleep 0.05; done")

    def change(config):
        config["process"]["args"] = ["/bin/sh", "-c", script]
    with Container(env, change=change) as c:
        ends = os.pipe()
        with os.fdopen(ends[0]), os.fdopen(ends[1], "w") as given, open(os.devnull, "w") as null:
            first = subprocess.Popen(["runc", "run", "--bundle", c.bundle, c.name], stdin=ends[0],
                                     stdout=subprocess.PIPE, stderr=null)
            wait_for("the trap", lambda: (c.data / "ready").exists())
            image = c.checkpoint()
            first.wait(20)
            expect(first.stdout.read() == b"begins\n", "other output before the checkpoint")
            del given
        c.gone()
        from_checkpoint(c, image)
        again = subprocess.Popen(["runc", "run", "--bundle", c.bundle, c.name], text=True, bufsize=1,
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        again.stdin.write("a word\n")
        again.stdin.flush()
        expect(again.stdout.readline() == "heard a word\n", restore_log(c))
        again.stdin.close()
        again.terminate()  # which runc hands on
        expect(again.stdout.read() == "asked to end\n", "other output at its end")
        expect(again.wait(20) == 7, f"exit code {again.returncode}")
        no_watcher(c)
        c.delete()
    c.gone()


@scenario
def in_place_placeholders(env):
    """What config.json names as the program is never run, whatever it is."""
    env.only_stasis()
    c, image = checkpointed(env, "threads")
    with c:
        shutil.copy(env.programs / "counter", c.bundle / "rootfs/pause")
        link = c.bundle / "rootfs/script"
        link.write_text("#!/bin/sh\necho was run >/data/was-run\n")
        link.chmod(0o755)
        for args in (["/bin/true"], ["/bin/sleep", "1"], ["/pause"], ["/script"],
                     ["/bin/sh", "-c", "echo was run >/data/was-run; exit 3"], ["sh"]):
            from_checkpoint(c, image, lambda config, args=args: config["process"].update(args=args))
            start(c)
            c.ask()
            expect(not (c.data / "was-run").exists(), f"{args} was run")
            c.delete()
            c.gone()


@scenario
def in_place_not_favoured(env):
    """What the host gave to the dumped container's threads is nothing that the new one's may take."""
    env.only_stasis()
    with Container(env, "threads") as c:
        c.start()
        tids = [int(tid) for tid in os.listdir(f"/proc/{c.init()}/task")]
        usual = os.getpriority(os.PRIO_PROCESS, tids[0])
        for tid, nice in zip(tids, (usual - 5, usual + 3)):
            os.setpriority(os.PRIO_PROCESS, tid, nice)
        image = c.checkpoint(door="stasis")
        from_checkpoint(c, image)
        start(c)
        c.ask()
        found = sorted(os.getpriority(os.PRIO_PROCESS, int(tid)) for tid in os.listdir(f"/proc/{c.init()}/task"))
        expect(found == [usual] * (len(tids) - 1) + [usual + 3], f"nice values {found}, usually {usual}")
        expect("its scheduling is the new container's: error 13" in restore_log(c), restore_log(c))
    c.gone()


@scenario
def in_place_pod(env):
    """The container that holds a pod's namespaces has the pod's annotations, and starts as always."""
    env.only_stasis()
    with Container(env, "threads") as c:
        for key in ("io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"):
            from_checkpoint(c, "/no/such/checkpoint",
                            lambda config, key=key: config.update(annotations={key: "sandbox", **config["annotations"]}))
            c.start()
            c.ask()
            no_watcher(c)
            c.delete()
            c.gone()
            from_checkpoint(c, "/no/such/checkpoint",
                            lambda config, key=key: config.update(annotations={**config["annotations"], key: "container"}))
            said = refusal(c, "create", "--bundle", c.bundle, c.name)
            expect("/no/such/checkpoint" in said, said)
            c.delete()
            from_checkpoint(c, "", lambda config: config.pop("annotations"))
        # One annotation for all containers of a pod.
        c.start()
        c.checkpoint(image=c.dir / "of-web")
        c.gone()
        for key in ("io.kubernetes.cri.container-name", "io.kubernetes.container.name"):
            from_checkpoint(c, c.dir / "of-{container}", lambda config, key=key: config["annotations"].update({key: "web"}))
            start(c)
            c.ask()
            c.delete()
            c.gone()
            from_checkpoint(c, c.dir / "of-{container}", lambda config, key=key: config["annotations"].pop(key))
            said = refusal(c, "create", "--bundle", c.bundle, c.name)
            expect("{container}, which isn't known here" in said, said)
            c.delete()


@scenario
def in_place_clones_addresses(env):
    """Clones have the addresses and mounts of their own containers, and share nothing."""
    env.only_stasis()
    c, image = checkpointed(env, "threads")
    names = [f"{c.name}-{n}"[-15:] for n in range(3)]
    with c, contextlib.ExitStack() as clones:
        for name in names:
            clones.callback(run, "ip", "netns", "del", name, ok=None)
            run("ip", "netns", "add", name)
        todo = []
        for number, name in enumerate(names):
            run("ip", "-n", name, "addr", "add", f"10.77.0.{number + 1}/32", "dev", "lo")
            run("ip", "-n", name, "link", "set", "lo", "up")
            clone = clones.enter_context(Container(env, "threads"))
            shutil.copytree(c.data, clone.data, dirs_exist_ok=True)
            own = clone.dir / "own"
            own.mkdir()
            (own / "name").write_text(f"{number}\n")

            def change(config, number=number, name=name, own=own):
                config["hostname"] = f"clone-{number}"
                for ns in config["linux"]["namespaces"]:
                    if ns["type"] == "network":
                        ns["path"] = f"/run/netns/{name}"
                config["mounts"].append({"destination": "/own", "type": "bind", "source": str(own),
                                         "options": ["bind", "ro"]})
            (clone.bundle / "rootfs/own").mkdir()
            from_checkpoint(clone, image, change)
            todo.append(clone)
        for clone in todo:
            start(clone)
        for kind in ("mnt", "uts", "ipc", "pid", "net"):
            seen = {os.readlink(f"/proc/{clone.init()}/ns/{kind}") for clone in todo}
            expect(len(seen) == len(todo), f"shared: {kind}")
        for number, clone in enumerate(todo):
            clone.ask()
            said = run("runc", "exec", clone.name, "/bin/sh", "-c",
                       "hostname; cat /own/name /proc/net/fib_trie").stdout
            expect(said.startswith(f"clone-{number}\n{number}\n"), said)
            for other in range(3):
                expect((f"10.77.0.{other + 1}" in said) == (other == number), f"{number}: {said}")
            clone.delete()
            clone.gone()


@scenario
def in_place_changes_under_it(env):
    """Images that go or change between create and start, files of another type, another processor."""
    env.only_stasis()
    c, image = checkpointed(env, "files")
    with c:
        whole = c.dir / "whole"
        shutil.copytree(image, whole)

        def mend():
            shutil.rmtree(image, ignore_errors=True)
            shutil.copytree(whole, image)

        def fails(change, *texts, how="run"):
            from_checkpoint(c, image)
            if how == "start":
                c.runc("create", "--bundle", c.bundle, c.name)
                change()
                c.runc("start", c.name, ok=False)
                said = restore_log(c)
            else:
                change()
                said = refusal(c, how, "--bundle", c.bundle, c.name)
            refused(c, said, *texts)
            mend()

        def without_pages():
            for path in image.glob("pages-*.img"):
                path.unlink()

        def shorter_pages():
            for path in image.glob("pages-*.img"):
                os.truncate(path, 4096)

        def another_processor():
            path = image / "stasis.img"
            expect(b"\x04sse2" in path.read_bytes(), "it doesn't tell the processor")
            path.write_bytes(path.read_bytes().replace(b"\x04sse2", b"\x04sse9"))
        fails(without_pages, "is missing; the checkpoint is damaged", how="start")
        fails(shorter_pages, "Error", how="start")
        fails(lambda: shutil.rmtree(image), "is missing; the checkpoint is damaged", how="start")
        fails(another_processor, "this processor lacks instructions that the checkpoint's had: sse9", how="create")
        # The drop-in restore is its caller's decision.
        another_processor()
        c.runc("restore", "-d", "--image-path", image, "--work-path", c.dir / "work", "--bundle", c.bundle, c.name)
        expect("lacks instructions" in c.engine_logs(), c.engine_logs())
        c.delete()
        c.gone()
        mend()
        program = c.bundle / "rootfs/files"
        content = program.read_bytes()
        program.unlink()
        program.mkdir(0o755)
        from_checkpoint(c, image, lambda config: config["process"].update(args=["/bin/true"]))
        said = refusal(c, "run", "--bundle", c.bundle, c.name)
        expect("stasis: cannot restore file /files: its mode is 40755" in said, said)
        run("runc", "delete", "-f", c.name, ok=None)
        c.gone()
        program.rmdir()
        program.write_bytes(content)
        program.chmod(0o755)


@scenario
def in_place_races(env):
    """Two that start under one name: one of them does, and the other is told."""
    env.only_stasis()
    c, image = checkpointed(env, "threads")
    with c:
        from_checkpoint(c, image)
        for _ in range(3):
            both = []
            for number in range(2):
                with open(c.dir / f"said-{number}", "w") as said:
                    both.append(subprocess.Popen(["runc", "run", "-d", "--bundle", c.bundle, c.name],
                                                 stdin=subprocess.DEVNULL, stdout=said, stderr=said))
                wait_for("the first", c.state)  # which runc itself would spoil before
            codes = sorted(process.wait(60) == 0 for process in both)
            expect(codes == [False, True], f"{codes}: {[(c.dir / f'said-{n}').read_text() for n in range(2)]}")
            c.ask()
            no_watcher(c)
            c.delete()
            c.gone()
        # Another runtime, or root of one, may use the name as well.
        c.runc("create", "--bundle", c.bundle, c.name)
        root = c.dir / "root"
        from_checkpoint(c, image, lambda config: config["linux"].update(cgroupsPath=f"/another-{c.name}"))
        said = refusal(c, "--root", root, "create", "--bundle", c.bundle, c.name)
        expect("another of this name is being started from a checkpoint" in said, said)
        run("runc", "--root", root, "delete", "-f", c.name, ok=None)
        record = json.loads(pathlib.Path(f"/run/stasis/{c.name}/mountmap.json").read_text())
        expect(record["init"]["pid"] == c.init(), f"the record is of {record['init']}")
        c.runc("start", c.name)
        c.ask()
        c.delete()
        no_watcher(c)
    c.gone()


@scenario
def in_place_signalled(env):
    """Signals to a container that is created and not started do what they do to any."""
    env.only_stasis()
    c, image = checkpointed(env, "threads")
    with c:
        plain = json.loads((c.bundle / "config.json").read_text())
        states = {}
        for restores in (False, True):
            (c.bundle / "config.json").write_text(json.dumps(plain))
            if restores:
                from_checkpoint(c, image)
            for name in ("WINCH", "URG", "CONT", "TERM"):
                c.runc("create", "--bundle", c.bundle, c.name)
                expect(bool(watchers(c)) == restores, "the watcher")
                init = c.init()
                c.runc("kill", c.name, name)
                if name == "TERM":
                    with contextlib.suppress(Exception):
                        wait_for("its end", lambda: c.state()["status"] == "stopped", 1)
                states.setdefault(name, []).append(c.state()["status"])
                if c.state()["status"] != "stopped":
                    caught = pathlib.Path(f"/proc/{init}/status").read_text()
                    expect("zombie" not in caught, caught)
                    if restores:
                        c.runc("start", c.name)
                        c.ask()
                c.delete()
                no_watcher(c)
                c.gone()
        for name, (without, with_us) in states.items():
            expect(without == with_us, f"{name}: {without} without us, {with_us} with us")
