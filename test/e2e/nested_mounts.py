"""Containers whose processes have mount namespaces of their own."""
from harness import Container, expect, scenario


def may_mount(config):
    for kind in ("bounding", "effective", "permitted"):
        config["process"]["capabilities"][kind].append("CAP_SYS_ADMIN")


def nested(name, door):
    @scenario(name=name)
    def go(env):
        env.only_stasis()
        with Container(env, "nested", change=may_mount) as c:
            c.start().ask()
            before = c.observe()
            expect(len(before["mounts"]) == 6, f"{len(before['mounts'])} mount namespaces, not 6")
            c.comes_back(before, door, times=2)
        c.gone()


nested("nested_mounts", "runc")
nested("nested_mounts_own_door", "stasis")
