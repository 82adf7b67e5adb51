"""Images in both directions: what one engine dumped the other restores, through runc."""
import os

<<<<<<< HEAD
from harness import Container, Skip, scenario
=======
from harness import Container, Skip, expect, scenario, wait_for
from inet import Connected
>>>>>>> 060e99c (Connections held after a checkpoint: found by CRIU's restore, and CRIU's by ours; ping sockets, raw IPv6)
from nested_mounts import may_mount

PEERS = ("criu-4.1.1", "criu-4.2")


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
            # What CRIU's restore changes is in harness.py; its dump keeps no mtime below a second.
            deviations = ("/mounts", "/across", "/network") if stasis_dumps else ("/network", "/tmpfs")
            c.same_as(before, deviations).ask()
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
    register("nested", "criu-4.2", _way, "plain", change=may_mount)
    register("inet", "criu-4.2", _way)
    register("tcp", "criu-4.2", _way, kind=Connected)
