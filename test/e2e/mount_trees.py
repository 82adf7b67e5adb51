"""Random mount trees in several mount namespaces of one container, dumped and restored."""
import os

import observe
from harness import Container, Failure, expect, scenario
from nested_mounts import may_mount
from userns import Mapped


def tables(c):
    """Every mount of every namespace, as observe.py tells them. Their order in mountinfo isn't kept
    where a mount was moved below a younger one."""
    labels, mounts, seers = observe.Labels(), {}, {}
    init = c.init()
    for pid in observe.pids_of(init):
        label = observe.namespace(pid, "mnt", labels)
        if label not in seers:
            seers[label] = pid
            mounts[label] = sorted(observe.mounts(pid)[0])
    return {"mounts": mounts, "across": observe.across(seers),
            "tmpfs": {label: observe.tmpfs_content(pid) for label, pid in seers.items()}}


def grow(env, seed, rounds, kind=Container):
    """Returns how many mounts were compared."""
    compared = 0
    with kind(env, "trees", str(seed), change=may_mount, hooks=False) as c:
        c.start()
        for number in range(1, rounds + 1):
            try:
                c.ask()
                before = tables(c)
                image = c.checkpoint()
                c.gone()
                c.restore(image)
                lines = observe.diff(before, tables(c))
                expect(not lines, "differs from before:\n" + "\n".join(lines[:40]))
            except Failure as failure:
                raise Failure(f"seed {seed}, round {number}: {failure}") from None
            compared += sum(map(len, before["mounts"].values()))
    return compared


@scenario
def mount_trees(env):
    """Two dozen trees."""
    env.only_stasis()
    compared = sum(grow(env, seed, 8) for seed in (1, 2, 3))
    expect(compared > 24 * 40, f"only {compared} mounts were compared: do the changes fail?")


@scenario
def mount_trees_mapped(env):
    """A dozen whose namespaces belong to a user namespace."""
    env.only_stasis()
    compared = sum(grow(env, seed, 6, Mapped) for seed in (4, 5))
    expect(compared > 12 * 40, f"only {compared} mounts were compared: do the changes fail?")


@scenario(label="long", seconds=3000)
def mount_trees_many(env):
    """A thousand trees, or STASIS_TREES of them; each fifth container has a user namespace."""
    env.only_stasis()
    rounds = 20
    for seed in range(100, 100 + int(os.environ.get("STASIS_TREES", "1000")) // rounds):
        grow(env, seed, rounds, Mapped if seed % 5 == 0 else Container)
