"""Unix sockets of containers: in use all the while, and with servers outside."""
import os
import socket

from harness import Container, expect, scenario


def again(env, program):
    with Container(env, program) as c:
        c.start()
        for _ in range(2):
            c.checkpoint("--leave-running")
            c.ask()
        for _ in range(2):
            image = c.checkpoint()
            c.gone()
            c.restore(image).ask()
            c.ask()
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
