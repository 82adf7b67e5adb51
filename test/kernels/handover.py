"""handover.py dump DIR PROGRAM... | restore DIR: one half of a move to another machine.

Restored programs must find themselves whole, and go through a checkpoint of this machine's, too.
"""
import os
import pathlib
import sys
import types

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS / "e2e"))
from harness import Container, Env, expect  # noqa: E402

OPTIONS = types.SimpleNamespace(stasis="/under-test/cli/stasis", criu=None, asan=None, faults=None, peers=None,
                                programs="/under-test/test/programs", keep=True)


def dump(directory, programs):
    directory.mkdir()
    for program in programs:
        c = Container(Env(OPTIONS, directory / program), program)
        c.start()
        c.checkpoint()
        c.gone()
        print(f"{program} leaves {os.uname().release}", flush=True)


def restore(directory):
    found = sorted(directory.iterdir())
    expect(found, f"no checkpoints in {directory}")
    for place in found:
        c = Container(Env(OPTIONS, place), place.name)
        old, = (p for p in place.iterdir() if p != c.dir)
        c.data.rmdir()
        (old / "bundle/data").rename(c.data)
        c.restore(old / "image-1")
        c.ask().comes_back(c.observe())
        c.delete()
        print(f"{place.name} moved to {os.uname().release}", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "dump":
        dump(pathlib.Path(sys.argv[2]), sys.argv[3:])
    else:
        restore(pathlib.Path(sys.argv[2]))
