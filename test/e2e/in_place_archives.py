"""Starts from checkpoints in one file: CRI-O's and containerd's for Kubernetes, and images made of such."""
import contextlib
import hashlib
import io
import json
import pathlib
import shutil
import tarfile

from harness import Skip, expect, run, scenario
from in_place import checkpointed, from_checkpoint, no_watcher, restore_log, start
from in_place_faults import faults, refusal, refused, some

UNPACKED = pathlib.Path("/var/lib/stasis/unpacked")


@contextlib.contextmanager
def tar(to, compression=""):
    """A tar, a file or in memory; what it yields adds a text, or a directory."""
    where = {"fileobj": to} if isinstance(to, io.BytesIO) else {"name": to}
    with tarfile.open(mode=f"w:{compression}", **where) as archive:
        def add(name, content):
            if isinstance(content, pathlib.Path):
                archive.add(content, name)
                return
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        yield add


def changes(layer=False):
    """What a container changed in its root: a tar, or an image's layer."""
    content = io.BytesIO()
    with tar(content, "gz" if layer else "") as add:
        add("other", b"by the container")
        add("made/by/it", b"new")
        if layer:
            add(".wh.taken", b"")
    return content.getvalue()


def before_changes(c):
    """The root of a new container of the same image."""
    root = c.bundle / "rootfs"
    shutil.rmtree(root / "made", ignore_errors=True)
    (root / "other").write_text("by the image")
    (root / "taken/away").mkdir(parents=True, exist_ok=True)


def has_changes(c):
    root = c.bundle / "rootfs"
    expect((root / "other").read_text() == "by the container", "a changed file is the image's")
    expect((root / "made/by/it").read_text() == "new", "a new file is another")
    expect(not (root / "taken").exists(), "what was deleted is there")


def crio(c, image, compression=""):
    """As CRI-O's CheckpointContainer writes it."""
    path = c.dir / "checkpoint-pod_ns-name-2026-11-21T00:00:00Z.tar"
    config = json.loads((c.bundle / "config.json").read_text())
    mounts = [{"source": m["source"], "destination": m["destination"], "file_type": "directory",
               "permissions": 0o755} for m in config["mounts"] if m["type"] == "bind"]
    with tar(path, compression) as add:
        add("bind.mounts", json.dumps(mounts).encode())
        add("checkpoint", image)
        add("config.dump", json.dumps({"id": c.name, "name": "k8s_name_pod_ns_uid_0",
                                       "rootfsImageName": "busybox", "runtime": "runc"}).encode())
        add("deleted.files", b'["/taken", "/never/there"]')
        add("dump.log", b"(00.000000) ...\n")
        add("io.kubernetes.cri-o.LogPath", b"2026-11-21T00:00:00+00:00 stdout F 1\n")
        add("rootfs-diff.tar", changes())
        add("spec.dump", json.dumps(config).encode())
        add("stats-dump", b"\0" * 64)
    return path


def containerd(c, image):
    """As containerd 2's CheckpointContainer writes it."""
    path = c.dir / "checkpoint-containerd.tar"
    with tar(path) as add:
        add("checkpoint/", image)
        for name in ("config.dump", "spec.dump", "status", "status.dump"):
            add(name, b"{}")
        for name in ("container.log", "dump.log", "stats-dump"):
            add(name, b"\0" * 64)
        add("rootfs-diff.tar", changes(layer=True))
    return path


def podman(c, image):
    """As podman 4.3's export writes it; its containers' /dev/shm is the host's."""
    path = c.dir / "podman.tar"
    shm = io.BytesIO()
    with tar(shm) as add:
        add("in/memory", b"shared\n" * 1000)
    with tar(path, "gz") as add:
        add("checkpoint", image)
        add("deleted.files", b'["/taken"]')
        add("devshm-checkpoint.tar", shm.getvalue())
        add("rootfs-diff.tar", changes())
        add("volumes", image)
    return path


class Layout:
    """An OCI image layout in one file."""

    def __init__(self, path):
        self.path, self.blobs = path, {}

    def blob(self, content, kind):
        digest = hashlib.sha256(content).hexdigest()
        self.blobs[f"blobs/sha256/{digest}"] = content
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(content)}

    def document(self, value, kind):
        return self.blob(json.dumps({"schemaVersion": 2, "mediaType": kind, **value}).encode(), kind)

    def write(self, top):
        with tar(self.path) as add:
            for name, content in self.blobs.items():
                add(name, content)
            add("index.json", json.dumps({"schemaVersion": 2, "manifests": [top]}).encode())
            add("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        return self.path


OCI = "application/vnd.oci.image."


def image_of(c, image):
    """As buildah makes it: FROM scratch, ADD checkpoint.tar /"""
    layout = Layout(c.dir / "image.oci")
    layer = layout.blob(crio(c, image, "gz").read_bytes(), OCI + "layer.v1.tar+gzip")
    manifest = {"config": layout.document({}, OCI + "config.v1+json"), "layers": [layer],
                "annotations": {"org.criu.checkpoint.container.name": "name"}}
    return layout.write(layout.document(manifest, OCI + "manifest.v1+json"))


def containerd_index(c, image):
    """As `ctr container checkpoint` and `ctr image export` make it."""
    layout = Layout(c.dir / "index.oci")
    with tar(c.dir / "criu.tar") as add:
        for file in sorted(image.iterdir()):
            add(file.name, file)
    base = layout.document({"layers": [layout.blob(b"no tar", OCI + "layer.v1.tar")]}, OCI + "manifest.v1+json")
    task = layout.blob((c.dir / "criu.tar").read_bytes(),
                       "application/vnd.containerd.container.criu.checkpoint.criu.tar")
    options = layout.blob(b"options", "application/vnd.containerd.container.checkpoint.options.v1+proto")
    return layout.write(layout.document({"manifests": [base, task, options]}, OCI + "index.v1+json"))


def nothing_unpacked(c):
    expect(not (UNPACKED / c.name).exists(), "what was unpacked is left")


@scenario
def in_place_archives(env):
    """Every form that engines give to an exported checkpoint."""
    env.only_stasis()
    c, image = checkpointed(env, "threads")
    with c:
        for make in (crio, containerd, podman, image_of, containerd_index):
            archive = make(c, image)
            archive.chmod(0o600)
            from_checkpoint(c, archive)
            before_changes(c)
            start(c)
            c.ask()
            no_watcher(c)
            nothing_unpacked(c)
            if make is not containerd_index:  # it has images alone
                has_changes(c)
            told = [line for line in restore_log(c).splitlines() if "is not applied" in line]
            expect(len(told) == (make is podman), f"{make.__name__}: {restore_log(c)}")
            c.delete()
            c.gone()


@scenario
def in_place_shared_memory(env):
    """An engine's /dev/shm on the host gets what the archive has of it, unless others use it."""
    env.only_stasis()
    c, image = checkpointed(env, "threads")
    with c:
        shm = c.dir / "shm"
        shm.mkdir()
        run("mount", "-t", "tmpfs", "shm", shm)
        archive = podman(c, image)
        archive.chmod(0o600)

        def from_host(config):
            config["mounts"] = [m for m in config["mounts"] if m["destination"] != "/dev/shm"]
            config["mounts"].append({"destination": "/dev/shm", "type": "bind", "source": str(shm),
                                     "options": ["bind", "nosuid", "nodev"]})
        try:
            for others in (False, True):
                from_checkpoint(c, archive, from_host)
                if others:
                    (shm / "theirs").write_text("")
                start(c)
                c.ask()
                content = (shm / "in/memory").read_text() if not others else ""
                expect(others or content == "shared\n" * 1000, f"/dev/shm has {content[:20]}")
                expect(others == ("isn't empty, others use it" in restore_log(c)), restore_log(c))
                expect(others == (not (shm / "in").exists()), "others' /dev/shm was changed")
                c.delete()
                no_watcher(c)
                shutil.rmtree(shm / "in", ignore_errors=True)
        finally:
            run("umount", shm)
    c.gone()


@scenario
def in_place_no_archive(env):
    """What holds no container's checkpoint, or several, is refused by the create, and says which."""
    env.only_stasis()
    c, image = checkpointed(env)
    with c:
        def fails(archive, *texts):
            archive.chmod(0o600)
            from_checkpoint(c, archive)
            refused(c, refusal(c, "create", "--bundle", c.bundle, c.name), *texts)
            nothing_unpacked(c)
        with tar(c.dir / "pod.tar", "gz") as add:
            add("pod.options", b'{"version":1,"containers":{"name":"name"}}')
            add("name/checkpoint", image)
        fails(c.dir / "pod.tar", "it holds no checkpoint/inventory.img", "it is a pod's")
        with tar(c.dir / "other.tar") as add:
            add("etc/passwd", b"root:x:0:0::/:/bin/sh\n")
        fails(c.dir / "other.tar", "it holds no checkpoint/inventory.img", "name an archive")
        layout = Layout(c.dir / "two.oci")
        manifests = [layout.document({"layers": [layout.blob(name, OCI + "layer.v1.tar")]}, OCI + "manifest.v1+json")
                     for name in (b"one", b"two")]
        fails(layout.write(layout.document({"manifests": manifests}, OCI + "index.v1+json")),
              "it holds several images", "save one image alone")
        whole = image_of(c, image)
        content = whole.read_bytes()
        whole.write_bytes(content[:len(content) // 3])
        fails(whole, "cannot unpack")
        (c.dir / "text").write_text("no tar at all\n" * 100)
        fails(c.dir / "text", "cannot unpack")
    c.gone()


def _archive_faults(env, stride, count):
    env.only_stasis()
    if not env.faults:
        raise Skip("needs stasis-faulty")

    def pack(c, image):
        archive = image_of(c, image)
        archive.chmod(0o600)
        return archive

    def clean(c):
        nothing_unpacked(c)
    for what in ("FAIL", "KILL"):
        # The archive is found and unpacked in some 350 calls, and the tasks take 5,000.
        numbers = [*range(100, 460, stride), *some(460, 5300, count)]
        outcomes = faults(env, what, numbers, pack, clean)
        expect(outcomes[False] > len(numbers) // 2, f"{what}: hardly a call has failed: {outcomes}")


@scenario(seconds=300)
def in_place_archive_faults(env):
    """A sample of the calls; in_place_archive_faults_long takes all that unpack."""
    _archive_faults(env, 37, 5)


@scenario(label="long", seconds=3000)
def in_place_archive_faults_long(env):
    _archive_faults(env, 1, 150)
