"""What a policy file allows containers to start from, and what a start tells of what it couldn't do."""
import shutil
import subprocess

from harness import Container, expect, run, scenario, wait_for
from in_place import checkpointed, from_checkpoint, no_watcher, restore_log, start
from snapshot import configure
from in_place_watcher import plain

# /etc with a policy file in it, for one command and what it starts.
OWN_ETC = """set -e; mount --make-rprivate /; mount -t tmpfs etc "$1"; mkdir -p "$1/upper/stasis" "$1/work"
cp "$2" "$1/upper/stasis/policy.yaml"; mount -t overlay -o "lowerdir=/etc,upperdir=$1/upper,workdir=$1/work" etc /etc
shift 2; exec "$@" """


class UnderPolicy:
    """runc where /etc/stasis/policy.yaml is another than the machine's."""

    def __init__(self, c, text):
        self.c, self.place, self.policy = c, c.dir / "etc", c.dir / "policy.yaml"
        self.place.mkdir()
        self.policy.write_text(text)

    def create(self, ok=True):
        out = self.c.dir / "created"
        with open(out, "w") as said:
            code = subprocess.run(
                ["unshare", "-m", "sh", "-c", OWN_ETC, "sh", self.place, self.policy,
                 "runc", "create", "--bundle", self.c.bundle, self.c.name],
                stdin=subprocess.DEVNULL, stdout=said, stderr=said, timeout=60, check=False).returncode
        expect((code == 0) == ok, f"create: {code}: {out.read_text()}")
        return out.read_text()


@scenario
def in_place_policy(env):
    """Names below the directories that a policy file lists, and nothing outside of them."""
    env.only_stasis()
    c, image = checkpointed(env, "threads")
    with c:
        reset = plain(c)
        store = c.dir / "store"
        shutil.copytree(image, store / "team/web")
        under = UnderPolicy(c, f"checkpoints: [{c.dir}/none, {store}]\n")
        for name, why in (("team/web", ""), (store / "team/web", ""),
                          (image, "it lies below none of the directories that the policy names"),
                          (store, "it lies below none of the directories that the policy names"),
                          ("web", "there is none of that name below the directories"),
                          (f"../{image.name}", "Invalid cross-device link")):
            reset()
            from_checkpoint(c, name)
            said = under.create(ok=not why)
            expect(why in said, f"{name}: {said}")
            if not why:
                c.runc("start", c.name)
                expect("Restored in place" in restore_log(c), restore_log(c))
                c.ask()
            c.delete()
            no_watcher(c)
            c.gone()
        # A snapshot goes into the first of them that has one, else into the first.
        for says in ("Snapshot taken", "Restored in place"):
            reset()
            configure(c, "delay=100ms", lambda config: config["annotations"].update({"dev.stasis.snapshot": "of-it"}))
            under.create()
            c.runc("start", c.name)
            wait_for(says, lambda says=says: says in restore_log(c))
            c.ask()
            c.delete()
            no_watcher(c)
            c.gone()
        expect((c.dir / "none/of-it/snapshot.json").exists(), "the snapshot lies elsewhere")


@scenario
def in_place_warnings(env):
    """A clone signal that nobody hears, and a tmpfs that the runtime has filled: the log says so."""
    env.only_stasis()

    def cache(*options):
        def change(config):
            config["mounts"] = [m for m in config["mounts"] if m["destination"] != "/cache"]
            config["mounts"].append({"destination": "/cache", "type": "tmpfs", "source": "tmpfs",
                                     "options": ["size=1m", *options]})
        return change
    c = Container(env, "threads", change=cache())
    with c:
        place = c.bundle / "rootfs/cache"
        place.mkdir()
        c.start()
        run("runc", "exec", c.name, "/bin/sh", "-c", "echo then >/cache/note")
        image = c.checkpoint()
        c.gone()
        (place / "note").write_text("now\n")

        def change(config):
            cache("tmpcopyup")(config)
            config["annotations"]["dev.stasis.clone-signal"] = "USR2"
        from_checkpoint(c, image, change)
        start(c)
        log = restore_log(c)
        expect("Warning: The first process has no handler for signal 12" in log, log)
        expect("Warning: The content of /cache is left out: it isn't empty now" in log, log)
        said = run("runc", "exec", c.name, "/bin/cat", "/cache/note").stdout
        expect(said == "now\n", f"the runtime's content was overwritten: {said}")
        c.ask()
        no_watcher(c)
    c.gone()
