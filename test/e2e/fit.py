"""stasis inspect: what a checkpoint holds and where it would fit; restores whose sources lie elsewhere."""
import json
import os
import pathlib
import shutil

from harness import Container, expect, run, scenario, wait_for

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "fixtures/images"


def mount_points(pid):
    """(id, parent, mountpoint) of every mount, as the kernel lists them."""
    lines = pathlib.Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    return [(int(f[0]), int(f[1]), f[4]) for f in (line.split() for line in lines)]


def change_config(directory, change):
    path = pathlib.Path(directory) / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def mount_of(config, destination):
    return next(m for m in config["mounts"] if m["destination"] == destination)


def other_bundle(c, name, change=lambda config: None):
    """A second bundle with the same root file system and sources."""
    copy = c.dir / name
    shutil.copytree(c.bundle, copy, symlinks=True)
    change_config(copy, change)
    return copy


def content(c, path):
    return pathlib.Path(f"/proc/{c.init()}/root/{path}").read_text()


@scenario
def inspect(env):
    """The demo's image as text and as JSON: every mount, task and open file of the container."""
    env.only_stasis()
    with Container(env) as c:
        c.start()
        live = mount_points(c.init())
        image = c.checkpoint("--leave-running")
        shown = json.loads(c.stasis("inspect", image, "--json").stdout)
        [space] = shown["mount_namespaces"]
        expect([(m["id"], m["parent"], m["mountpoint"]) for m in space["mounts"]] == live,
               f"other mounts than the container's: {space['mounts']}")
        by_point = {m["mountpoint"]: m for m in space["mounts"]}
        expect(by_point["/"]["class"] == "root", by_point["/"])
        expect(by_point["/data"]["key"] == "/data", by_point["/data"])
        expect(by_point["/tmp"]["type"] == "tmpfs" and "key" not in by_point["/tmp"], by_point["/tmp"])
        expect(by_point["/etc/hostname"]["flags"].startswith("ro"), by_point["/etc/hostname"])
        expect(shown["tasks"][0]["comm"] == "sh" and shown["tasks"][0]["pid"] == 1, shown["tasks"])
        expect(all(t["memory_bytes"] > 4096 and t["threads"] for t in shown["tasks"]), shown["tasks"])
        pipes = {f["name"] for f in shown["files"] if f["kind"] == "pipe"}
        expect(len(pipes) == 1, f"not the one pipe between the two loops: {pipes}")
        own = {n["kind"] for n in shown["namespaces"] if n["of"] == "container"}
        expect({"mnt", "pid", "uts", "ipc", "net"} <= own, shown["namespaces"])
        expect(shown["findings"] == [], shown["findings"])

        text = c.stasis("inspect", image).stdout
        for word in ("/etc/resolv.conf", "key /data", "/bin/busybox", "hostname demo", "/demo.sh"):
            expect(word in text, f"no {word} in:\n{text}")
        expect("\033" not in text, "colours where there is no terminal")


@scenario
def inspect_criu(env):
    """Images of CRIU's own, and one that no restore would take: shown all the same."""
    env.only_stasis()
    for version in ("4.1.1", "4.2"):
        for name, tasks, threads in (("demo", 4, 1), ("threads", 1, 9)):
            image = FIXTURES / f"criu-{version}" / name
            shown = json.loads(run(env.stasis, "inspect", image, "--json").stdout)
            expect(shown["made_by"] == "CRIU" and not shown["findings"], shown)
            expect(len(shown["tasks"]) == tasks, shown["tasks"])
            expect(len(shown["tasks"][0]["threads"]) == threads, shown["tasks"])
            expect(len(shown["mount_namespaces"][0]["mounts"]) == 30, shown["mount_namespaces"])
    broken = env.work / "broken"
    shutil.copytree(FIXTURES / "criu-4.2/demo", broken)
    (broken / "mm-6.img").unlink()
    shown = json.loads(run(env.stasis, "inspect", broken, "--json").stdout)
    expect("mm-6.img" in shown["findings"][0]["subject"], shown["findings"])
    expect(len(shown["tasks"]) == 4 and len(shown["files"]) == 13, shown)
    result = run(env.stasis, "inspect", env.work, ok=False)
    expect("inventory.img" in result.stderr, result.stderr)


@scenario
def inspect_diff(env):
    """A checkpoint held against bundles: its own, and such as would not take it."""
    env.only_stasis()
    with Container(env) as c:
        c.start()
        image = c.checkpoint("--leave-running")

        def diff(bundle, ok):
            result = c.stasis("inspect", image, "--diff", bundle, ok=ok)
            return [line for line in result.stdout.splitlines()
                    if line.split(":")[0] in ("note", "warning", "obstacle")]

        def told(lines, *words):
            return any(all(word in line for word in words) for line in lines)
        expect(diff(c.bundle, True) == [], f"its own bundle: {diff(c.bundle, True)}")

        fewer = other_bundle(c, "fewer", lambda config: config["mounts"].remove(
            mount_of(config, "/data")))
        lines = diff(fewer, False)
        expect(told(lines, "obstacle", "/data", "no mount"), lines)

        def as_file(config):
            mount_of(config, "/data")["source"] = "etc/hosts"
        lines = diff(other_bundle(c, "file", as_file), False)
        expect(told(lines, "obstacle", "/data", "etc/hosts is a file"), lines)

        def as_directory(config):
            mount_of(config, "/etc/hosts")["source"] = "data"
        lines = diff(other_bundle(c, "directory", as_directory), False)
        expect(told(lines, "obstacle", "/etc/hosts", "data is a directory"), lines)

        gone = other_bundle(c, "gone")
        (gone / "etc/resolv.conf").unlink()
        lines = diff(gone, False)
        expect(told(lines, "obstacle", "/etc/resolv.conf", f"{gone}/etc/resolv.conf is gone"), lines)

        def as_tmpfs(config):
            mount_of(config, "/data").update(type="tmpfs", source="tmpfs", options=[])
        lines = diff(other_bundle(c, "type", as_tmpfs), False)
        expect(told(lines, "obstacle", "/data", "a tmpfs"), lines)

        def more(config):
            config["mounts"].append({"destination": "/mnt/more", "type": "tmpfs", "source": "more"})
            config["root"]["readonly"] = False
            mount_of(config, "/etc/hostname")["options"] = ["rbind", "rw"]
        lines = diff(other_bundle(c, "more", more), True)
        expect(told(lines, "note", "/data", f"it was {c.bundle}/data"), lines)
        expect(told(lines, "warning", "/mnt/more", "won't have it"), lines)
        expect(told(lines, "warning", "mount / ", "read-only"), lines)
        expect(told(lines, "warning", "/etc/hostname", "read-only"), lines)
        expect(len([line for line in lines if not line.startswith("note")]) == 3, lines)


@scenario
def inspect_diff_volumes(env):
    """Binds below one another, below tmpfs and through symlinks fit the bundle that they are from."""
    env.only_stasis()

    def change(config):
        add = config["mounts"].append
        add({"destination": "/data/deep", "type": "bind", "source": "deep", "options": ["bind"]})
        add({"destination": "/linked/below", "type": "bind", "source": "link", "options": ["rbind", "ro"]})
        add({"destination": "/tmp/below", "type": "bind", "source": "deep", "options": ["rbind"]})
        config["root"]["readonly"] = False
        config["linux"]["namespaces"].append({"type": "cgroup"})
    with Container(env, "counter", change=change) as c:
        (c.bundle / "deep").mkdir()
        (c.bundle / "link").symlink_to("deep")
        (c.bundle / "data/deep").mkdir()
        (c.bundle / "rootfs/real").mkdir()
        (c.bundle / "rootfs/linked").symlink_to("/real")
        c.start()
        image = c.checkpoint(door="cli")
        shown = json.loads(c.stasis("inspect", image, "--diff", c.bundle, "--json").stdout)
        expect(shown["fits"] and not shown["findings"], shown["findings"])
        expect(shown["made_by"] == "stasis" and shown["id"] == c.name, shown)
        for name in ("ask", "answer"):
            (c.data / name).unlink(missing_ok=True)
        result = run(env.stasis, "restore", c.name, "--image", image)
        expect(not result.stderr, result.stderr)
        c.ask()


@scenario
def restore_elsewhere(env):
    """Into another bundle, whose config.json names other sources; each difference is shown first."""
    env.only_stasis()
    with Container(env, "counter") as c:
        c.start()
        image = c.checkpoint(door="cli")

        def away(config):
            mount_of(config, "/data")["source"] = str(c.dir / "volume")
            mount_of(config, "/etc/hosts")["source"] = "etc/other-hosts"
        bundle = other_bundle(c, "elsewhere", away)
        (bundle / "etc/other-hosts").write_text("127.0.0.1 elsewhere\n")
        result = run(env.stasis, "restore", c.name, "--image", image, "--bundle", bundle, ok=False)
        expect("/data" in result.stderr and f"{c.dir}/volume is gone" in result.stderr, result.stderr)
        c.gone()
        c.data.rename(c.dir / "volume")
        c.data = c.dir / "volume"
        for name in ("ask", "answer"):
            (c.data / name).unlink(missing_ok=True)
        result = run(env.stasis, "restore", c.name, "--image", image, "--bundle", bundle)
        for word in (f"/data comes from {c.dir}/volume", f"came from {c.bundle}/data",
                     f"{bundle}/etc/other-hosts"):
            expect(word in result.stderr, f"no {word} in: {result.stderr}")
        expect(content(c, "etc/hosts") == "127.0.0.1 elsewhere\n", content(c, "etc/hosts"))
        c.ask()


@scenario
def restore_map(env):
    """--map DEST=SOURCE: another source than config.json's, also after the next checkpoint."""
    env.only_stasis()
    with Container(env, "counter") as c:
        c.start()
        before = c.observe()
        image = c.checkpoint(door="cli")
        volume = c.dir / "a=volume"
        c.data.rename(volume)
        c.data = volume
        hosts = c.dir / "hosts"
        hosts.write_text("127.0.0.1 mapped\n")
        copy = pathlib.Path("/var/lib/stasis/bundles") / c.name
        try:
            wrong = run(env.stasis, "restore", c.name, "--image", image, "--map", f"/dat={volume}",
                        ok=False)
            expect("/dat is no external mount" in wrong.stderr and "/data" in wrong.stderr, wrong.stderr)
            wrong = run(env.stasis, "restore", c.name, "--image", image, "--map", f"/data={hosts}",
                        ok=False)
            expect("/data" in wrong.stderr and "is a file" in wrong.stderr, wrong.stderr)
            expect(not copy.exists(), "a copy of the bundle before anything is sure")
            c.gone()

            maps = ("--map", f"/data={volume}", "--map", f"/etc/hosts={hosts}")
            config = (c.bundle / "config.json").read_text()
            c.restore(image, *maps, door="cli").same_as(before, ("/data below", "hosts", "a=volume")).ask()
            expect(content(c, "etc/hosts") == "127.0.0.1 mapped\n", content(c, "etc/hosts"))
            expect((c.bundle / "config.json").read_text() == config, "it changed the bundle's config.json")
            expect(os.stat(copy / "config.json").st_mode & 0o077 == 0, "others can read the copy")

            # The container's bundle is the copy: what was mapped stays mapped.
            again = c.checkpoint(door="cli")
            c.gone()
            for name in ("ask", "answer"):
                (c.data / name).unlink(missing_ok=True)
            result = run(env.stasis, "restore", c.name, "--image", again)
            expect("comes from" not in result.stderr, result.stderr)
            c.ask()
            expect(content(c, "etc/hosts") == "127.0.0.1 mapped\n", content(c, "etc/hosts"))
        finally:
            c.delete()
            shutil.rmtree(copy, ignore_errors=True)


@scenario
def restore_map_instead(env):
    """--map brings back a bind that the new config.json doesn't have."""
    env.only_stasis()
    with Container(env) as c:
        c.start()
        wait_for("some numbers", lambda: len(c.numbers()) > 5)
        image = c.checkpoint(door="cli")
        stood = len(c.numbers())
        bundle = other_bundle(c, "without", lambda config: config["mounts"].remove(
            mount_of(config, "/data")))
        copy = pathlib.Path("/var/lib/stasis/bundles") / c.name
        try:
            run(env.stasis, "restore", c.name, "--image", image, "--bundle", bundle, ok=False)
            c.gone()
            run(env.stasis, "restore", c.name, "--image", image, "--bundle", bundle,
                "--map", f"/data={c.data}")
            c.counts_on(stood)
        finally:
            c.delete()
            shutil.rmtree(copy, ignore_errors=True)
