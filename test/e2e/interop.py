"""Images in both directions: what one engine dumped the other restores, through runc."""
import os

from harness import Container, Skip, scenario
from inet import Connected, Network
from nested_mounts import may_mount

PEERS = ("criu-4.1.1", "criu-4.2")

# What CRIU changes of any container is in harness.py. Its restore shows all of a cgroup v1 hierarchy
# where the container saw its own part; its dump keeps no mtime below a second.
DEVIATIONS = {True: (" cgroup cgroup rw", "/across", "/network"), False: ("/network", "/tmpfs")}


def exchange(env, program, peer, stasis_dumps, args, keywords, kind=Container):
    env.only_stasis()
    peer = env.peers and os.path.join(env.peers, peer)
    if not peer or not os.path.exists(peer):
        raise Skip(f"no {peer}; test/interop/get-criu brings it")
    dumper, restorer = (env.stasis, peer) if stasis_dumps else (peer, env.stasis)
    env = env.with_engine(env.stasis)
    with kind(env, program, *args, **keywords) as c:
        c.start()
        before = c.observe() if program else None
        env.criu = dumper
        image = c.checkpoint()
        c.gone()
        env.criu = restorer
        stood = len(c.numbers())
        c.restore(image)
        if program:
            # 4.1.1 brings a read-only root back writable.
            root = (" / below outside",) if stasis_dumps and peer.endswith("4.1.1") else ()
            c.same_as(before, DEVIATIONS[stasis_dumps] + root).ask()
        else:
            c.counts_on(stood)


def register(program, peer, stasis_dumps, *args, kind=Container, **keywords):
    way = f"stasis_to_{peer}" if stasis_dumps else f"{peer}_to_stasis"

    @scenario(label="interop", name=f"{way}_{program or 'demo'}")
    def go(env):
        exchange(env, program, peer, stasis_dumps, args, keywords, kind)


for _peer in PEERS:
    for _program in (None, "threads", "memory", "counter"):
        register(_program, _peer, True)
        register(_program, _peer, False)
for _way in (True, False):
    register("sysv", "criu-4.2", _way, "plain")
    register("unix_sockets", "criu-4.2", _way, "plain")
    register("nested", "criu-4.2", _way, "plain", change=may_mount)

register("inet", "criu-4.2", False, "plain")
register("tcp", "criu-4.2", False, "plain", kind=Connected)


@scenario(label="interop")
def stasis_to_criu_connections(env):
    """In a network that stays, as CRIU leaves the loopback of its own down; it lifts our rules."""
    env.only_stasis()
    peer = env.peers and os.path.join(env.peers, "criu-4.2")
    if not peer or not os.path.exists(peer):
        raise Skip("no criu-4.2; test/interop/get-criu brings it")
    with Network(20) as network:
        env = env.with_engine(env.stasis)

        def join(config):
            for space in config["linux"]["namespaces"]:
                if space["type"] == "network":
                    space["path"] = network.path()
        with Connected(env, "tcp", "plain", change=join) as c:
            c.start()
            image = c.checkpoint()
            c.gone()
            (c.data / "last").touch()
            env.criu = peer
            c.restore(image)
            c.ask()
