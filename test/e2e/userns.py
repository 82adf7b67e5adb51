"""Containers with a user namespace of their own: root inside is nobody's root outside."""
import os
import pathlib

from harness import Container, Skip, expect, run, scenario
from scenarios import more_caps, round_trip

UIDS, GIDS = 100000, 200000


def map_users(config, uids=UIDS, gids=GIDS):
    linux = config["linux"]
    linux["namespaces"].append({"type": "user"})
    linux["uidMappings"] = [{"containerID": 0, "hostID": uids, "size": 65536}]
    linux["gidMappings"] = [{"containerID": 0, "hostID": gids, "size": 65536}]


class Mapped(Container):
    """A container whose root is uid UIDS of the host, to whom its bundle belongs."""

    def __init__(self, env, program=None, *args, change=lambda config: None, **keywords):
        def mapped(config):
            map_users(config)
            change(config)
        super().__init__(env, program, *args, change=mapped, **keywords)
        env.work.chmod(0o711)
        for directory, names, files in os.walk(self.bundle):
            for name in [".", *names, *files]:
                os.lchown(os.path.join(directory, name), UIDS, GIDS)

    def observe(self):
        view = super().observe()
        init = f"/proc/{self.init()}"
        view["users"] = {name: pathlib.Path(f"{init}/{name}").read_text().split()
                         for name in ("uid_map", "gid_map", "setgroups")}
        return view


def program_scenario(program, door="runc", **keywords):
    @scenario(name=f"userns_{program}" + ("" if door == "runc" else "_own_door"))
    def go(env):
        round_trip(env, Mapped(env, program, **keywords), door=door)


for _program in ("counter", "files", "hidden", "limits", "memory", "signals", "threads", "tree"):
    program_scenario(_program)
program_scenario("confined", change=more_caps)
program_scenario("threads", door="stasis")


def tenant_caps(config):
    for kind in ("bounding", "effective", "permitted"):
        config["process"]["capabilities"][kind] += [
            "CAP_SETUID", "CAP_SETGID", "CAP_CHOWN", "CAP_FOWNER", "CAP_SETFCAP", "CAP_DAC_OVERRIDE"]


program_scenario("owners", change=tenant_caps)
program_scenario("owners", door="stasis", change=tenant_caps)


@scenario
def userns_overmounts(env):
    """What lies beneath other mounts is found and comes back in a user namespace, too."""
    env.only_stasis()
    with Mapped(env, "hidden") as c:
        c.start()
        over = ("mount", "-t", "tmpfs", "-o", "size=1m,uid=5", "over")
        for command in ((*over, "/tmp/under"), (*over, "/tmp/under"), ("touch", "/tmp/under/dir"),
                        ("mount", "--bind", "/sys", "/sys")):
            run("nsenter", "-t", c.init(), "-U", "-m", "busybox", *command)
        c.ask()
        before = c.observe()
        image = c.checkpoint()
        c.gone()
        c.restore(image).same_as(before)
        c.ask()
        c.restore(c.checkpoint()).same_as(before)  # and again from there
        c.ask()
