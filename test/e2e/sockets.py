"""Unix sockets of containers: in use all the while, and with servers outside."""
import os
import socket

from harness import Container, Skip, expect, scenario


def again(env, program, files=None, **keywords):
    container = Container(env, program, **keywords)
    for name, text in (files or {}).items():
        (container.data / name).write_text(text)
    with container as c:
        c.start().goes_through_all(lambda: c.ask().ask())
    c.gone()


@scenario
def unix_sockets_again(env):
    """With the container running on, and from the image of a restored one."""
    again(env, "unix_sockets")


@scenario
def courier(env):
    """A producer and a consumer over datagrams with files under way: none is lost or comes twice."""
    again(env, "courier")


def server_outside(env, kind):
    """A container whose program is connected to a socket in a directory of the host."""
    directory = env.work / "outside"
    directory.mkdir(exist_ok=True)
    path = directory / f"server-{kind}"
    server = socket.socket(socket.AF_UNIX, kind)
    server.bind(str(path))
    server.settimeout(20)
    if kind == socket.SOCK_STREAM:
        server.listen(5)

    def change(config):
        config["mounts"].append({"destination": "/outside", "type": "bind", "source": str(directory),
                                 "options": ["rbind", "rw"]})
    words = [f"/outside/{path.name}"] + (["stream"] if kind == socket.SOCK_STREAM else [])
    return server, path, Container(env, "caller", *words, change=change)


@scenario
def server_outside_is_named(env):
    """Before the freeze, with the path that the container has for it and what to do."""
    env.only_stasis()
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        server, path, container = server_outside(env, kind)
        with server, container as c:
            c.start()
            accepted = server.accept() if kind == socket.SOCK_STREAM else None
            c.checkpoint(ok=False)
            log = (c.dir / "work/dump.log").read_text()
            remedy = "--ext-unix-sk" if kind == socket.SOCK_DGRAM else "--external 'unix["
            for word in (str(path), f"of process {os.getpid()}", remedy):
                expect(word in log, f"{word!r} is not in:\n{log}")
            expect("Froze" not in log, f"it was frozen:\n{log}")
            c.ask()
            if accepted:
                accepted[0].close()
        c.gone()


@scenario
def server_outside_again(env):
    """A log server by datagrams: with --ext-unix-sk the restored program goes on sending to it."""
    env.only_stasis()
    server, _, container = server_outside(env, socket.SOCK_DGRAM)
    with server, container as c:
        c.start().ask()
        expect(server.recv(100) == b"number 0", "the first packet")
        image = c.checkpoint("--ext-unix-sk")
        c.restore(image, ok=False)
        c.restore(image, "--ext-unix-sk").ask()
        expect(server.recv(100) == b"number 1", "the packet after the restore")
    c.gone()


WORKERS = """
import multiprocessing, os, sys, time
from multiprocessing.managers import BaseManager

class Counter:
    def __init__(self): self.count = 0
    def next(self):
        self.count += 1
        return self.count

class Counters(BaseManager): pass
Counters.register("Counter", Counter)

def double(channel):
    while True: channel.send(channel.recv() * 2)

def say(name, text):
    with open("/data/new", "w") as file: file.write(text)
    os.rename("/data/new", "/data/" + name)

if __name__ == "__main__":
    manager = Counters()
    manager.start()
    counter = manager.Counter()
    ours, theirs = multiprocessing.Pipe()
    multiprocessing.Process(target=double, args=(theirs,), daemon=True).start()
    expected, last = 0, ""
    say("ready", "ready\\n")
    while True:
        time.sleep(0.005)
        expected += 1
        counted = counter.next()
        ours.send(counted)
        doubled = ours.recv()
        try: word = open("/data/ask").read()
        except FileNotFoundError: continue
        if word and word != last:
            last = word
            right = counted == expected and doubled == 2 * expected
            say("answer", word + (" ok\\n" if right else f" FAIL: {counted}, {doubled}\\n"))
"""


@scenario
def python_multiprocessing(env):
    """A manager with its listener and clients, and a worker behind a duplex pipe, all by unix sockets."""
    if not os.path.exists("/usr/bin/python3"):
        raise Skip("needs Debian's python3")

    def change(config):
        for path in ("/usr", "/lib", "/lib64"):
            config["mounts"].append({"destination": path, "type": "bind", "source": path,
                                     "options": ["rbind", "ro"]})
        config["process"]["args"] = ["/usr/bin/python3", "/data/workers.py"]
    again(env, "caller", change=change, files={"workers.py": WORKERS})
