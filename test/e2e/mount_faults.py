"""The silent faults that others have with mounts (1 to 10): each comes out right here, or is refused
before the freeze by an error that names mount, cause and remedy."""
import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess

from harness import Container, Skip, expect, run, scenario, wait_for


class Tree:
    """A process in a mount and pid namespace of its own, driven by CRIU's command line."""

    def __init__(self, env, setup, shared=None):
        self.env, self.images, self.pid = env, 0, 0
        self.dir = env.work / "tree"
        self.dir.mkdir()
        # Private, but for what a test wants to be shared, and without the mounts of tests that run
        # beside this one. Its descriptors have to be of its own mounts.
        private = f"""while read -r a b c d point rest; do
            place=$(printf %b "$point")
            case "$place" in
              "{shared}"|"{env.work}"*) ;;
              */stasis-test-*) umount -l "$place" || true; continue ;;
            esac
            [ "$place" = "{shared}" ] || mount --make-private "$place" || true
            done <<<"$(cat /proc/1/mountinfo)\""""
        script = f"set -e; {private}; {setup}; exec </dev/null >/dev/null 2>&1; exec busybox sleep 98765"
        self.parent = subprocess.Popen(
            ["unshare", "-mpif", "--mount-proc", "--propagation", "unchanged", "bash", "-c", script],
            stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
        self.pid = wait_for("the tree", self._find)

    def _find(self):
        expect(self.parent.poll() is None, "the tree's set-up failed")
        children = pathlib.Path(f"/proc/{self.parent.pid}/task/{self.parent.pid}/children").read_text()
        for pid in children.split():
            with contextlib.suppress(OSError):
                if pathlib.Path(f"/proc/{pid}/cmdline").read_text().startswith("busybox"):
                    return int(pid)
        return 0

    def alive(self):
        return os.path.exists(f"/proc/{self.pid}/exe") and \
            "Z" not in pathlib.Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]

    def criu(self, command, *args, ok=True):
        result = run(self.env.stasis, "criu", command, "--no-default-config", "-v4", "-o",
                     f"{command}.log", "-D", self.image, *args, ok=None, timeout=60)
        log = self.image / f"{command}.log"
        text = (log.read_text() if log.exists() else "") + result.stderr
        expect((result.returncode == 0) == ok, f"{command} {args}: {result.returncode}\n{text}")
        return text

    def dump(self, *args, ok=True):
        self.images += 1
        self.image = self.dir / f"image-{self.images}"
        self.image.mkdir()
        text = self.criu("dump", "--tree", self.pid, *args, ok=ok)
        expect(self.alive() != ok, "the tree lives" if ok else "the tree is dead after a refusal")
        if not ok:
            expect("Froze" not in text, f"refused after the freeze:\n{text}")
        return text

    def restore(self, *args, ok=True):
        (self.image / "pid").unlink(missing_ok=True)
        text = self.criu("restore", "-d", "--pidfile", "pid", *args, ok=ok)
        if ok:
            self.pid = int((self.image / "pid").read_text())
        return text

    def path(self, inside):
        return pathlib.Path(f"/proc/{self.pid}/root{inside}")

    def mount_line(self, point):
        lines = pathlib.Path(f"/proc/{self.pid}/mountinfo").read_text().splitlines()
        return "".join([line for line in lines if line.split()[4] == str(point)][-1:])

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        with contextlib.suppress(OSError):
            if self.pid:
                os.kill(self.pid, signal.SIGKILL)
        self.parent.kill()
        self.parent.wait()
        if self.pid:
            wait_for("the tree to end", lambda: not os.path.exists(f"/proc/{self.pid}/exe"), 10)


@contextlib.contextmanager
def mounted(*points):
    """Unmounts at the end whatever was mounted at these places of the host, all layers."""
    for point in points:
        point.mkdir(exist_ok=True)
    try:
        yield
    finally:
        for point in points:
            while any(line.split()[4] == str(point) for line in
                      pathlib.Path("/proc/self/mountinfo").read_text().splitlines()):
                run("umount", "-l", point)


def says(text, *words):
    for word in words:
        expect(word in text, f"doesn't say {word!r}:\n{text[-3000:]}")


def tmpfs(point, name, text):
    run("mount", "-t", "tmpfs", name, point)
    run("mount", "--make-private", point)
    (point / "file").write_text(text)


def inside(c, *command):
    run("nsenter", "-t", c.init(), "-m", "/bin/busybox", *command)


def refused(c, *words):
    """A checkpoint through runc is refused and says why; nothing has happened to the container."""
    init = c.init()
    c.checkpoint(ok=False)
    says(c.engine_logs(), *words)
    expect(c.init() == init, "another init")
    c.ask()


def bind(source, destination, *options):
    return {"destination": destination, "type": "bind", "source": source,
            "options": ["rbind", "rw", *options]}


@scenario
def fault_1_key_for_a_stack(env):
    """The container's own tmpfs over an external volume comes back, and so does what is below."""
    env.only_stasis()
    c = Container(env, "counter", change=lambda config: config["mounts"].append(bind("vol", "/vol")))
    (c.bundle / "vol").mkdir()
    (c.bundle / "vol/file").write_text("host")
    (c.bundle / "rootfs/vol").mkdir()
    with c:
        c.start()
        inside(c, "mount", "-t", "tmpfs", "own", "/vol")
        root = pathlib.Path(f"/proc/{c.init()}/root")
        (root / "vol/file").write_text("own")
        says(c.stasis("plan", c.name).stdout, "/vol is mounted 2 times, from below:",
             f"(from {c.bundle}/vol), then", "the lowest of the host's")
        before = c.observe()
        c.restore(c.checkpoint())
        c.same_as(before).ask()
        root = pathlib.Path(f"/proc/{c.init()}/root")
        expect((root / "vol/file").read_text() == "own", "the container's own tmpfs is gone")
        inside(c, "umount", "/vol")
        expect((root / "vol/file").read_text() == "host", "the volume below isn't the host's")
        # In the volume's place, the container's own is what the key doesn't mean.
        inside(c, "umount", "/vol")
        inside(c, "mount", "-t", "tmpfs", "own", "/vol")
        (root / "vol/file").write_text("own again")
        c.restore(c.checkpoint())
        root = pathlib.Path(f"/proc/{c.init()}/root")
        expect((root / "vol/file").read_text() == "own again", "host data in the place of its own")
        c.ask()


@scenario
def fault_2_overmounted_source(env):
    """A source found automatically is the same file system later, whatever lies on its path."""
    env.only_stasis()
    host, vol = env.work / "host", env.work / "vol"
    with mounted(host, vol):
        tmpfs(host, "first", "first")
        with Tree(env, f"mount --bind {host} {vol}; umount {host}") as tree:
            tree.dump("--external", "mnt[]:ms")
            tmpfs(host, "second", "second")
            says(tree.restore("--external", "mnt[]"), str(vol), "is covered by another mount")
            expect(tree.path(vol / "file").read_text() == "first", "another file system came back")
            run("umount", host)
            (host / "file").write_text("first, changed")
            expect(tree.path(vol / "file").read_text() == "first, changed", "a copy came back")

            tree.dump("--external", "mnt[]:ms")
            # It can be elsewhere, too.
            elsewhere = env.work / "elsewhere"
            with mounted(elsewhere):
                run("mount", "--bind", host, elsewhere)
                tmpfs(host, "second", "second")
                says(tree.restore("--external", "mnt[]"), "it is at", str(elsewhere))
                expect(tree.path(vol / "file").read_text() == "first, changed", "not found again")
            run("umount", host)

            tree.dump("--external", "mnt[]:ms")
            number = host.stat().st_dev
            run("umount", host)
            tmpfs(host, "third", "third")
            refusal = tree.restore("--external", "mnt[]", ok=False)
            says(refusal, str(vol), f"--external mnt[{vol}]:SOURCE")
            # Most of the time the kernel gives it the number that has become free, but what runs
            # beside this test can be quicker, and have it or be gone again.
            if host.stat().st_dev == number:
                says(refusal, str(host), "isn't the file system that was there at the dump")
            else:
                expect("isn't the file system that was there at the dump" in refusal
                       or "isn't mounted any more" in refusal, refusal)
            says(tree.restore(ok=False), "Allow it to be bound from there")
            tree.restore("--external", "mnt[]", "--external", f"mnt[{vol}]:{host}")
            expect(tree.path(vol / "file").read_text() == "third", "not what was named")


@scenario
def fault_2_overmounted_volume(env):
    """The same of a container under runc, which always names the path that config.json has."""
    env.only_stasis()
    host = env.work / "volume"
    c = Container(env, "counter", change=lambda config: config["mounts"].append(bind(str(host), "/vol")))
    with mounted(host):
        tmpfs(host, "first", "first")
        with c:
            c.start()
            tmpfs(host, "second", "second")
            says(c.stasis("plan", c.name).stdout, str(host), "is on another file system since")
            image = c.checkpoint()
            says(c.engine_logs(), "/vol", str(host), "is on another file system since")
            c.restore(image).ask()
            says(c.engine_logs(), "/vol: its source", str(host), "is what was there mounted?")
            volume = pathlib.Path(f"/proc/{c.init()}/root") / "vol/file"
            expect(volume.read_text() == "second", "not what config.json names")
            run("umount", "-l", host)
            c.delete()
            c.restore(image, door="stasis")
            volume = pathlib.Path(f"/proc/{c.init()}/root") / "vol/file"
            expect(volume.read_text() == "first", "another volume")


@scenario
def fault_3_shared_volume(env):
    """A tmpfs that is shared with the host isn't copied under mnt[]; with :s it is shared again."""
    env.only_stasis()
    host, vol = env.work / "host", env.work / "vol"
    with mounted(host, vol):
        tmpfs(host, "volume", "host")
        run("mount", "--make-shared", host)
        with Tree(env, f"mount --bind {host} {vol}", shared=host) as tree:
            expect("shared:" in tree.mount_line(vol), "the volume isn't shared")
            says(tree.dump("--external", "mnt[]", ok=False), f"mount {vol} (tmpfs)",
                 f"shares its mounts with the host's {host}", "--external mnt[]:s")
            tree.dump("--external", "mnt[]:sm")
            tree.restore("--external", "mnt[]:sm")
            (host / "file").write_text("host again")
            expect(tree.path(vol / "file").read_text() == "host again", "a copy came back")
            (host / "below").mkdir()
            run("mount", "-t", "tmpfs", "below", host / "below")
            (host / "below/file").write_text("below")
            expect(tree.path(vol / "below/file").read_text() == "below", "it isn't shared any more")
            run("umount", host / "below")


ENABLED = {"s": "--enable-external-sharing", "m": "--enable-external-masters"}


@scenario
def external_groups(env):
    """Volumes of the host's that share mounts with it, or follow it: by one letter, or in CRIU's older words."""
    env.only_stasis()
    host, vol = env.work / "host", env.work / "vol"
    for letter, make, tag in (("s", "true", "shared:"), ("m", f"mount --make-slave {vol}; mount --make-slave {host}", "master:")):
        with mounted(host, vol):
            tmpfs(host, "volume", "host")
            run("mount", "--make-shared", host)
            with Tree(env, f"mount --bind {host} {vol}; {make}", shared=host) as tree:
                expect(tag in tree.mount_line(vol), f"the volume isn't {tag}")
                other = "m" if letter == "s" else "s"
                says(tree.dump("--external", f"mnt[]:{other}", ok=False), f"mount {vol} (tmpfs)",
                     "allow it: --external mnt[]:sm")
                for dump, restore in (
                        (("--external", f"mnt[]:{letter}"), ("--external", f"mnt[]:{letter}")),
                        (("--ext-mount-map", "auto", ENABLED[letter]), ("--ext-mount-map", "auto"))):
                    tree.dump(*dump)
                    tree.restore(*restore)
                    expect(tag in tree.mount_line(vol), f"{dump}: no longer {tag}")
                    (host / "below").mkdir(exist_ok=True)
                    run("mount", "-t", "tmpfs", "below", host / "below")
                    (host / "below/file").write_text("below")
                    expect(tree.path(vol / "below/file").read_text() == "below", f"{dump}: cut off")
                    run("umount", host / "below")
        shutil.rmtree(env.work / "tree")


@scenario
def fault_4_deleted_source(env):
    """Binds of deleted files are refused before the freeze, inside and from the host."""
    env.only_stasis()
    c = Container(env, "counter",
                  change=lambda config: config["mounts"].append(bind("etc/extra", "/etc/extra")))
    (c.bundle / "etc/extra").write_text("extra")
    (c.bundle / "rootfs/etc/extra").touch()
    with c:
        c.start()
        inside(c, "touch", "/tmp/source", "/tmp/target")
        inside(c, "mount", "-o", "bind", "/tmp/source", "/tmp/target")
        inside(c, "rm", "/tmp/source")
        refused(c, "/tmp/target", "has been deleted", "Unmount it in the container")
        inside(c, "umount", "/tmp/target")
        # Moved away is no better than deleted.
        hidden = c.bundle / "etc/gone"
        (c.bundle / "etc/extra").rename(hidden)
        refused(c, "/etc/extra", str(c.bundle / "etc/extra"), "deleted", "put it back")
        hidden.unlink()
        refused(c, "/etc/extra", str(c.bundle / "etc/extra"), "deleted", "put it back")
        (c.bundle / "etc/extra").write_text("new")
        c.restore(c.checkpoint()).ask()
        text = pathlib.Path(f"/proc/{c.init()}/root/etc/extra").read_text()
        expect(text == "new", f"the file says {text}")


@scenario
def fault_5_symlinked_source(env):
    """Sources that are symbolic links, to a directory and to a file, absolute and relative."""
    def change(config):
        config["mounts"] += [bind("link", "/vol"), bind("etc/link", "/etc/extra", "ro")]
    c = Container(env, "counter", change=change)
    (c.bundle / "vol").mkdir()
    (c.bundle / "vol/file").write_text("volume")
    (c.bundle / "link").symlink_to(c.bundle / "vol")
    (c.bundle / "etc/real").write_text("real")
    (c.bundle / "etc/link").symlink_to("real")
    with c:
        c.start()
        before = c.observe()
        c.restore(c.checkpoint())
        c.same_as(before).ask()
        root = pathlib.Path(f"/proc/{c.init()}/root")
        expect((root / "vol/file").read_text() == "volume", "another volume")
        expect((root / "etc/extra").read_text() == "real", "another file")
    if env.criu != env.stasis:
        return
    # Whatever a link leads to at the restore: its kind is looked at before anything is made.
    host, vol, link = env.work / "host", env.work / "vol", env.work / "link"
    with mounted(host, vol):
        tmpfs(host, "volume", "volume")
        link.symlink_to(host)
        with Tree(env, f"mount --bind {host} {vol}; umount {host}") as tree:
            tree.dump("--external", "mnt[]", "--external", f"mnt[{vol}]:volume")
            (env.work / "file").symlink_to(host / "file")
            says(tree.restore("--external", "mnt[]", "--external", f"mnt[volume]:{env.work}/file",
                              ok=False), str(vol), "is a file, and was a directory", "mnt[volume]:")
            says(tree.restore("--external", "mnt[]", "--external", f"mnt[volume]:{env.work}/none",
                              ok=False), str(vol), "is missing", "mnt[volume]:")
            tree.restore("--external", "mnt[]", "--external", f"mnt[volume]:{link}")
            expect(tree.path(vol / "file").read_text() == "volume", "another volume")


@scenario
def fault_6_replaced_source(env):
    """Files replaced by rename, as resolv.conf is, and a swapped ..data, as Kubernetes does it."""
    env.only_stasis()
    c = Container(env, "counter", change=lambda config: config["mounts"].append(
        bind("config/key", "/etc/key", "ro")))
    projected = c.bundle / "config"
    (projected / "..1").mkdir(parents=True)
    (projected / "..1/key").write_text("one")
    (projected / "..data").symlink_to("..1")
    (projected / "key").symlink_to("..data/key")
    with c:
        c.start()
        resolv = c.bundle / "etc/resolv.conf"
        (c.bundle / "etc/new").write_text("nameserver 10.9.9.9\n")
        (c.bundle / "etc/new").rename(resolv)
        (projected / "..2").mkdir()
        (projected / "..2/key").write_text("two")
        (projected / "..new").symlink_to("..2")
        (projected / "..new").rename(projected / "..data")
        (projected / "..1/key").unlink()
        (projected / "..1").rmdir()
        image = c.checkpoint()
        says(c.engine_logs(), "/etc/resolv.conf", "replaced", "/etc/key")
        c.gone()
        c.restore(image).ask()
        root = pathlib.Path(f"/proc/{c.init()}/root")
        expect((root / "etc/resolv.conf").read_text() == resolv.read_text(), "an old resolv.conf")
        expect((root / "etc/key").read_text() == "two", "an old key")


@scenario
def fault_7_unused_keys(env):
    """Keys and names that mean nothing and kinds that don't exist are errors with neighbours."""
    env.only_stasis()
    host, vol = env.work / "host", env.work / "a volume:1"
    with mounted(host, vol):
        tmpfs(host, "volume", "host")
        with Tree(env, f"mount --bind {host} '{vol}'") as tree:
            near = str(vol)[:-1] + "2"
            says(tree.dump("--external", f"mnt[{near}]:v", ok=False), near, f"did you mean {vol}")
            says(tree.dump("--external", "moo[x]:y", ok=False), "moo", "no kind")
            says(tree.dump("--external", "mnt[]:mx", ok=False), '"x"')
            says(tree.dump("--skip-mnt", near, ok=False), near, str(vol))
            says(tree.dump("--extrenal", "x", ok=False), "external")
            # Both letters count, a slash at the end and a colon inside don't.
            tree.dump("--external", "mnt[]:ms", "--ext-mount-map", f"{vol}/./:volume")
            says(tree.restore("--external", "mnt[]", ok=False), str(vol), 'key "volume"',
                 "--external mnt[volume]:SOURCE")
            says(tree.restore("--external", "mnt[]", "--external", f"mnt[volum]:{host}", ok=False),
                 "did you mean volum?")
            says(tree.restore("--external", "mnt[]", "--external", f"mnt[volume]:{host}",
                              "--external", f"mnt[wolume]:{host}", ok=False),
                 'name "wolume"', "did you mean volume?")
            tree.restore("--external", "mnt[]", "--external", f"mnt[volume]:{host}/")
            (host / "file").write_text("the host's")
            expect(tree.path(vol / "file").read_text() == "the host's", "not the host's volume")


@scenario
def fault_7_unused_keys_of_a_container(env):
    """Under runc, whose annotation org.criu.config brings further options. A file of options may serve
    many containers: what means nothing to this one is in the log, with what is near."""
    env.only_stasis()
    conf = env.work / "criu.conf"
    c = Container(env, "counter", change=lambda config: config.setdefault("annotations", {}).update(
        {"org.criu.config": str(conf)}))
    with c:
        c.start()
        conf.write_text("external moo[/data]:data\n")
        refused(c, "moo", "no kind")
        conf.write_text("external mnt[/dat]:volume\nskip-mnt /dev/sm\n")
        c.checkpoint("--leave-running")
        says((c.dir / "work/dump.log").read_text(), "Nothing is meant by /dat", "did you mean /data ",
             "Nothing is meant by /dev/sm", "did you mean /dev/shm?")
        c.restore(c.checkpoint()).ask()


@scenario
def mount_options(env):
    """A device by its number, file systems by name, mounts left out with what stands on them."""
    env.only_stasis()
    disk, out, huge = env.work / "disk", env.work / "out", env.work / "huge"
    with disk_image(env) as loop, mounted(disk, out, huge):
        number = os.stat(loop).st_rdev
        setup = (f"mount -t ext2 {loop} {disk}; echo content >{disk}/file; mkdir {disk}/sub; "
                 f"mount -t tmpfs out {out}; mkdir {out}/below; mount -t tmpfs below {out}/below; "
                 f"mount -t bpf huge {huge}")
        with Tree(env, setup) as tree:
            args = ["--external", "mnt[]"]
            device = ["--external", f"dev[{os.major(number)}/{os.minor(number)}]:loop"]
            says(tree.dump(*args, "--enable-fs", "bpf", ok=False), f"{disk} (from",
                 device[1].replace("loop", "KEY"))
            says(tree.dump(*args, *device, ok=False), f"{huge} (from", "--enable-fs")
            says(tree.dump(*args, "--external", "dev[7/255]:loop", ok=False),
                 f"{os.major(number)}/{os.minor(number)} at {disk}")
            tree.dump(*args, *device, "--enable-fs", "bpf,xenfs", "--skip-mnt", f"{out}/")
            says(tree.restore(*args, "--enable-fs", "bpf", ok=False), str(disk), "dev[loop]:")
            says(tree.restore(*args, "--external", f"dev[loop]:{loop}", ok=False), str(huge),
                 "--enable-fs bpf")
            says(tree.restore(*args, "--external", f"dev[loop]:{env.work / 'disk.img'}", "--enable-fs", "bpf",
                              ok=False), "no block device")
            tree.restore(*args, "--external", f"dev[loop]:{loop}", "--enable-fs", "bpf")
            expect(tree.path(disk / "file").read_text() == "content\n", "another device")
            expect(" - bpf " in tree.mount_line(huge), f"{huge}: {tree.mount_line(huge)}")
            expect(not tree.mount_line(out) and not tree.mount_line(out / "below"), "not left out")


def meanwhile(c, change, door, complaint):
    """Changes something behind the plan's back: the checkpoint stops before it seizes a process."""
    seize = 101  # ptrace
    env = {**os.environ, "STASIS_STOP_BEFORE": str(seize)}
    if door == "runc":
        command = ["runc", "--criu", c.env.faults, "checkpoint", "--image-path", c.dir / "image-late",
                   "--work-path", c.dir / "work", c.name]
    else:
        command = [c.env.faults, "checkpoint", c.name, "--image", c.dir / "image-late"]
    with subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, env=env,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            stopped = wait_for("the checkpoint to stop", lambda: stopped_engine(c.env.faults))
            change()
            os.kill(stopped, signal.SIGCONT)
            said, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    expect(process.returncode == 1, f"exit code {process.returncode} after {complaint}: {said}")
    text = said if door == "stasis" else c.engine_logs()
    expect(complaint in text, f"not named: {complaint!r} in:\n{text}")
    image = c.dir / "image-late"
    left = list(image.glob("*.img")) if image.exists() else []
    expect(not left, f"half an image is left: {left}")
    c.ask()


def stopped_engine(binary):
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/exe") == binary and \
                    pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T":
                return int(pid)
    return 0


@scenario
def changed_after_the_plan(env):
    """A mount, an umount, a renamed source or a new process between plan and freeze is noticed."""
    env.only_stasis()
    if not env.faults:
        raise Skip("needs a build with STASIS_FAULTS")
    with Container(env, "counter", hooks=False) as c:
        c.start()

        def change(*command):
            return lambda: inside(c, *command)

        def replace(name):
            (c.bundle / "etc/new").write_text("127.0.0.1 replaced\n")
            (c.bundle / "etc/new").rename(c.bundle / "etc" / name)

        def bring_in():
            # The new process keeps the descriptors that runc is given.
            subprocess.run(["runc", "exec", "-d", c.name, "/bin/sleep", "1000"], check=True, timeout=60,
                           stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        mount = ("mount", "-t", "tmpfs", "-o", "size=4k", "late")
        for door, source in (("stasis", "hosts"), ("runc", "resolv.conf")):
            meanwhile(c, change(*mount, "/tmp"), door, "/tmp (tmpfs): it was mounted meanwhile")
            meanwhile(c, change("umount", "/tmp"), door,
                      "/tmp (tmpfs): it was unmounted meanwhile")
            meanwhile(c, change("mount", "-o", "remount,bind,ro", "/tmp"), door,
                      "/tmp (tmpfs): it was mounted with other options")
            inside(c, "mount", "-o", "remount,bind,rw", "/tmp")
            meanwhile(c, bring_in, door, "not a descendant of its init")
            run("pkill", "-f", "^/bin/sleep 1000$")
            meanwhile(c, lambda name=source: replace(name), door, f"/etc/{source} ")
        c.restore(c.checkpoint("--policy", policy_of(c), door="stasis"), door="stasis").ask()


def policy_of(c):
    """Takes the files whose sources are gone into the image."""
    path = c.dir / "policy.yaml"
    path.write_text("rules: [{destination: '/etc/*', action: content}]\n")
    return path


@contextlib.contextmanager
def disk_image(env, megabytes=8):
    """A loop device with an ext2 file system."""
    image = env.work / "disk.img"
    with open(image, "wb") as file:
        file.truncate(megabytes << 20)
    run("mkfs.ext2", "-q", image)
    loop = subprocess.run(["losetup", "-f", "--show", image], capture_output=True, text=True,
                          check=False).stdout.strip()
    if not loop:
        raise Skip("no loop device can be had")
    try:
        yield loop
    finally:
        run("losetup", "-d", loop, ok=None)


@scenario
def fault_8_part_of_a_disk(env):
    """A part of a disk, the whole of which is mounted nowhere: no restore could find it."""
    env.only_stasis()
    with disk_image(env) as loop, Container(env, "counter") as c:
        c.start()
        number = os.stat(loop).st_rdev
        inside(c, "mknod", "/dev/disk", "b", os.major(number), os.minor(number))
        inside(c, "mkdir", "/tmp/whole", "/tmp/part")
        inside(c, "mount", "-t", "ext2", "/dev/disk", "/tmp/whole")
        inside(c, "mkdir", "/tmp/whole/sub")
        inside(c, "mount", "--bind", "/tmp/whole/sub", "/tmp/part")
        inside(c, "umount", "/tmp/whole")
        why = ("/tmp/part", "(/sub)", "mounted nowhere else")
        refused(c, *why, "--external mnt[/tmp/part]")
        says(run(env.stasis, "checkpoint", c.name, "--image", c.dir / "image", ok=False).stderr, "/tmp/part")
        expect(not (c.dir / "image").exists(), "an image is left")
        inside(c, "umount", "/tmp/part")
        c.comes_back(c.observe())
    c.gone()


@scenario
def fault_8_no_proper_root(env):
    """A tmpfs that is only shown in parts, its own root nowhere any more, as sandboxes leave it."""
    env.only_stasis()
    with Container(env, "counter", hooks=False) as c:
        c.start()
        inside(c, "mount", "-t", "tmpfs", "-o", "size=64k,mode=711", "parts", "/tmp")
        inside(c, "mkdir", "-p", "/tmp/a/b", "/tmp/other")
        inside(c, "sh", "-c", "echo deep >/tmp/a/b/deep; echo file >/tmp/file; chmod 4711 /tmp/file; "
                              "echo lost >/tmp/other/unreachable; touch /dev/shm/file; mkdir /dev/shm/a /dev/shm/b")
        for part, place in (("a", "a"), ("a/b", "b"), ("file", "file")):
            inside(c, "mount", "--bind", f"/tmp/{part}", f"/dev/shm/{place}")
        inside(c, "umount", "/tmp")
        before = c.observe()
        for _ in range(2):
            c.restore(c.checkpoint()).same_as(before)
        root = pathlib.Path(f"/proc/{c.init()}/root/dev/shm")
        expect((root / "b/deep").read_text() == "deep\n", "another file in the part's part")
        expect((root / "file").read_text() == "file\n", "another file")
        expect((root / "file").stat().st_mode & 0o7777 == 0o4711, "another mode")
        (root / "b/deep").write_text("written")
        expect((root / "a/b/deep").read_text() == "written", "two file systems were made of one")
        c.ask()


def inside(c, *command):
    run("nsenter", "-t", c.init(), "-m", "-p", "--", *command)


@scenario
def fault_10_a_process_for_each_tmpfs(env):
    """Many tmpfs with content are dumped without a single process being started for it."""
    env.only_stasis()
    many = 168

    def change(config):
        config["mounts"] += [{"destination": f"/dev/many/{n}", "type": "tmpfs", "source": "tmpfs",
                              "options": ["size=64k"]} for n in range(many)]
    with Container(env, "counter", hooks=False, change=change) as c:
        c.start()
        inside(c, "sh", "-c", "for n in /dev/many/*; do echo $n >$n/name; done")
        before = c.observe()
        trace = c.dir / "trace"
        run("strace", "-f", "-qq", "-o", trace, "-e", "trace=execve,fork,vfork,clone,clone3",
            env.stasis, "checkpoint", c.name, "--image", c.dir / "image", "--leave-running")
        started = [call for call in trace.read_text().splitlines()
                   if re.search(r" (execve|v?fork|clone3?)\(", call) and "CLONE_THREAD" not in call]
        expect(len(started) == 1 and "execve" in started[0], "\n".join(started))
        c.same_as(before)
        c.restore(c.checkpoint()).same_as(before)
        name = pathlib.Path(f"/proc/{c.init()}/root/dev/many/{many - 1}/name")
        expect(name.read_text() == f"/dev/many/{many - 1}\n", "another content")
        c.ask()
