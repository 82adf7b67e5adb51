"""The policy file: what its rules make of a container's mounts."""
import json
import os
import pathlib

from harness import Container, expect, scenario


def write_policy(container, text):
    path = container.dir / "policy.yaml"
    path.write_text(text)
    return path


def with_volume(config):
    add = config["mounts"].append
    add({"destination": "/volume", "type": "bind", "source": "volume", "options": ["rbind"]})
    add({"destination": "/part", "type": "bind", "source": "volume/part", "options": ["rbind", "ro"]})
    add({"destination": "/gone", "type": "bind", "source": "gone", "options": ["bind"]})


def volume_container(env, **keywords):
    c = Container(env, "counter", change=with_volume, **keywords)
    (c.bundle / "volume/part").mkdir(parents=True)
    (c.bundle / "volume/file").write_text("from the host")
    (c.bundle / "volume/part/deep").write_text("deep")
    (c.bundle / "gone").write_text("a file that goes away")
    return c


def in_root(container, path):
    return pathlib.Path(f"/proc/{container.init()}/root/{path}")


def rows(container, policy):
    plan = container.stasis("plan", container.name, "--json", "--policy", policy, ok=None)
    return json.loads(plan.stdout)


CONTENT = """
rules:
  - destination: [/volume, /part, /gone]
    action: content
    why: the other site has none
"""


@scenario
def policy_content(env):
    """A bound directory, a part of it and a file whose source is gone are taken into the image."""
    env.only_stasis()
    with volume_container(env) as c:
        c.start()
        (c.bundle / "gone").unlink()
        plan = rows(c, write_policy(c, "rules: []\n"))
        expect(not plan["checkpointable"], "a source that is gone is no obstacle")
        policy = write_policy(c, CONTENT)
        expect(rows(c, policy)["checkpointable"], rows(c, policy)["findings"])
        image = c.checkpoint("--policy", policy, door="stasis")
        c.gone()
        (c.bundle / "volume/file").write_text("changed on the host")
        (c.bundle / "gone").write_text("another one")
        c.restore(image)
        expect(in_root(c, "volume/file").read_text() == "from the host", "the volume is the host's")
        expect(in_root(c, "part/deep").read_text() == "deep", "no part")
        expect(in_root(c, "gone").read_text() == "a file that goes away", "another file")
        expect(os.statvfs(in_root(c, "part")).f_flag & os.ST_RDONLY, "the part can be written")
        in_root(c, "volume/part/deep").write_text("written")
        expect(in_root(c, "part/deep").read_text() == "written", "the part is a copy of its own")
        expect((c.bundle / "volume/part/deep").read_text() == "deep", "the host's was written")
        c.ask()
        # And once more: by now they are the container's own.
        c.restore(c.checkpoint("--policy", policy, door="stasis"))
        expect(in_root(c, "gone").read_text() == "a file that goes away", "another file")
        expect(in_root(c, "part/deep").read_text() == "written", "the second time")
        c.ask()
