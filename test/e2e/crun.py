"""crun, in a mount namespace with cgroup v2 alone, which is all that it understands."""
import json
import shutil
import subprocess

from harness import Skip, expect
from in_place import restore_log

CGROUP2 = """mount --make-rprivate / && umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec crun --cgroup-manager=disabled --root "$@" """


class Crun:
    def __init__(self, c):
        if not shutil.which("crun"):
            raise Skip("needs crun")
        self.c = c

    def __call__(self, *args, ok=True, out=None):
        out = out or self.c.dir / f"crun-{args[0]}.out"  # a file, which the container keeps open
        with open(out, "w") as said:
            code = subprocess.run(
                ["unshare", "-m", "sh", "-c", CGROUP2, "sh", self.c.dir / "crun", *map(str, args)],
                stdin=subprocess.DEVNULL, stdout=said, stderr=said, timeout=60, check=False).returncode
        expect(ok is None or (code == 0) == ok, f"crun {args}: {code}\n{out.read_text()}\n{restore_log(self.c)}")
        return out.read_text()

    def state(self):
        return json.loads(self("state", self.c.name))
