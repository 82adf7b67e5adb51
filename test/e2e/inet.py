"""Internet sockets: what a container listens at and is connected to comes back, and nobody notices."""
import contextlib
import os
import shutil
import socket
import threading
import time

import faults
from harness import Container, Failure, PATIENCE, Skip, expect, run, scenario, wait_for
from in_place import from_checkpoint, start
from userns import Mapped


class Connected(Container):
    """Its connections are taken along."""

    def checkpoint(self, *options, **keywords):
        return super().checkpoint("--tcp-established", *options, **keywords)

    def restore(self, image, *options, **keywords):
        return super().restore(image, "--tcp-established", *options, **keywords)


class MappedConnected(Connected, Mapped):
    pass


def twice(env, container, last=False):
    """Nothing differs afterwards; `last`: what was under way all the time is taken in the end."""
    with container as c:
        c.start()
        before = c.observe()
        c.goes_through_all(lambda: c.same_as(before).ask())
        if last:
            (c.data / "last").touch()
            c.ask()
    c.gone()


@scenario
def inet(env):
    """Sockets that listen, are bound, or have a peer by name only."""
    twice(env, Container(env, "inet"))


@scenario
def inet_userns(env):
    twice(env, Mapped(env, "inet"))


@scenario
def inet_in_place(env):
    """In the network that the runtime has just made."""
    env.only_stasis()
    with Container(env, "inet") as c:
        c.start()
        image = c.checkpoint()
        c.gone()
        from_checkpoint(c, image)
        start(c)
        c.ask()
    c.gone()


@scenario
def tcp(env):
    """Connections within the container, in all states, with data under way."""
    twice(env, Connected(env, "tcp"), last=True)


@scenario
def tcp_userns(env):
    twice(env, MappedConnected(env, "tcp"), last=True)


@scenario
def tcp_refused(env):
    """Without --tcp-established a connection is in the way of a checkpoint, and nothing happens to it."""
    env.only_stasis()
    with Container(env, "tcp") as c:
        c.start()
        for door in ("runc", "stasis"):
            image = c.checkpoint(door=door, ok=False)
            expect(not (image / "inventory.img").exists(), "half a checkpoint is left")
            c.ask()
        plan = c.stasis("plan", c.name, ok=None).stdout
        expect("--tcp-established" in plan, f"the plan doesn't say what helps:\n{plan}")
        from_place = c.checkpoint("--tcp-established")
        c.gone()
        c.restore(from_place, ok=False)
        expect("--tcp-established" in c.engine_logs(), c.engine_logs())
        c.delete()
        from_checkpoint(c, from_place)
        c.runc("create", "--bundle", c.bundle, c.name, ok=False)
    c.gone()


SERVER = """
import socket, socketserver
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    address_family = socket.AF_INET6
server = Server(("::", 7000), Echo)
open("/data/counter", "w").write("1")
server.serve_forever()
"""


class Network:
    """A network namespace whose veth ends here."""

    def __init__(self, number):
        self.name = f"stasis-test-{os.getpid()}-{number}"
        self.link = f"st{os.getpid() % 100000}-{number}"
        self.inside, self.outside = f"10.213.{number}.2", f"10.213.{number}.1"

    def __enter__(self):
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        run("ip", "address", "add", f"{self.outside}/24", "dev", self.link)
        run("ip", "link", "set", self.link, "up")
        inside = ("ip", "-n", self.name)
        run(*inside, "address", "add", f"{self.inside}/24", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "up")
        run(*inside, "link", "set", "lo", "up")
        return self

    def __exit__(self, *_):
        run("ip", "netns", "delete", self.name, ok=None)
        run("ip", "link", "delete", self.link, ok=None)

    def path(self):
        return f"/run/netns/{self.name}"


def with_programs(network, command):
    """The host's programs, in a network of ours."""
    def change(config):
        config["process"]["args"] = command
        for path in ("/usr", "/lib", "/lib64", "/etc/alternatives"):
            if os.path.exists(path):
                config["mounts"].append({"destination": path, "type": "bind", "source": path,
                                         "options": ["rbind", "ro"]})
        for space in config["linux"]["namespaces"]:
            if space["type"] == "network":
                space["path"] = network.path()
    return change


class Talk(threading.Thread):
    """A client that asks for numbers and wants each of them, once and in order."""

    def __init__(self, address, port, pause=0.001, window=1, question=lambda n: b"%09d\n" % n):
        super().__init__(daemon=True)
        self.socket = socket.create_connection((address, port), 10)
        self.socket.settimeout(30 * PATIENCE)
        self.pause, self.window, self.question = pause, window, question
        self.sent, self.back, self.gap, self.failure = 0, 0, 0.0, None
        self.ending = False
        self.start()

    def run(self):
        try:
            lines = self.socket.makefile("rb")
            while not self.ending:
                for _ in range(self.window):
                    self.sent += 1
                    self.socket.sendall(self.question(self.sent))
                begin = time.monotonic()
                for _ in range(self.window):
                    line = lines.readline()
                    if not line:
                        raise Failure("the connection has ended")
                    self.back += 1
                    if int(line.lstrip(b":")) != self.back:
                        raise Failure(f"{line} came back, not {self.back}")
                self.gap = max(self.gap, time.monotonic() - begin)
                time.sleep(self.pause)
        except (OSError, Failure, ValueError) as error:
            self.failure = error

    def goes_on(self):
        before = self.back
        wait_for("the client's next answers",
                 lambda: self.failure or self.back > before + 3 * self.window, 30)
        expect(self.failure is None, f"the client sees: {self.failure}")

    def end(self):
        self.ending = True
        self.join()
        self.socket.close()
        expect(self.failure is None, f"the client sees: {self.failure}")
        expect(self.sent == self.back, f"{self.sent} sent, {self.back} came back")


def make_host_directories(c):
    for name in ("usr", "lib", "lib64", "etc/alternatives"):
        (c.bundle / "rootfs" / name).mkdir(parents=True, exist_ok=True)


@scenario
def tcp_clients(env):
    """Clients outside keep their connections while the container is stored and comes back."""
    with Network(1) as network:
        change = with_programs(network, ["/usr/bin/python3", "-c", SERVER])
        with Connected(env, change=change) as c:
            make_host_directories(c)
            c.start()
            talks = [Talk(network.inside, 7000), Talk(network.inside, 7000, window=500)]
            for talk in talks:
                talk.goes_on()
            for _ in range(2):
                c.checkpoint("--leave-running")
                for talk in talks:
                    talk.goes_on()
            for _ in range(2):
                image = c.checkpoint()
                time.sleep(0.5)
                c.restore(image)
                for talk in talks:
                    talk.goes_on()
            late = Talk(network.inside, 7000)
            late.goes_on()
            for talk in [*talks, late]:
                talk.end()
        c.gone()


def as_user(network, command, uid):
    def change(config):
        with_programs(network, command)(config)
        config["process"]["user"] = {"uid": uid, "gid": uid}
    return change


@scenario
def redis(env):
    """redis and clients that count in it, one of them with many questions under way."""
    if not shutil.which("redis-server"):
        raise Skip("needs redis-server")
    command = ["/usr/bin/redis-server", "--port", "6379", "--bind", "0.0.0.0", "--save", "",
               "--protected-mode", "no", "--dir", "/data", "--logfile", "/data/log"]
    with Network(2) as network, \
            Connected(env, change=as_user(network, command, 65534)) as c:
        make_host_directories(c)
        c.runc("run", "-d", "--bundle", c.bundle, c.name)

        def talk(key, window):
            with contextlib.suppress(OSError):
                return Talk(network.inside, 6379, window=window,
                            question=lambda n: b"INCR %s\r\n" % key)
            return None
        talks = [wait_for("redis", lambda: talk(b"one", 1)), talk(b"many", 300)]
        reader = socket.create_connection((network.inside, 6379), 10)
        reader.settimeout(30 * PATIENCE)
        reader.sendall(b"SUBSCRIBE news\r\n")
        reader.recv(1000)
        for options in (["--leave-running"], ["--leave-running"], [], []):
            for one in talks:
                one.goes_on()
            image = c.checkpoint(*options)
            if not options:
                time.sleep(0.3)
                c.restore(image)
        for one in talks:
            one.goes_on()
        writer = socket.create_connection((network.inside, 6379), 10)
        writer.sendall(b"PUBLISH news hello\r\n")
        expect(b"hello" in reader.recv(1000), "the subscriber hears nothing")
        for one in talks:
            one.end()
    c.gone()


NGINX = """
worker_processes 2;
pid /data/nginx.pid;
error_log /data/error.log;
events { worker_connections 64; }
http {
  access_log off;
  client_body_temp_path /data/body; proxy_temp_path /data/proxy; fastcgi_temp_path /data/fastcgi;
  uwsgi_temp_path /data/uwsgi; scgi_temp_path /data/scgi;
  server { listen 8080; listen [::]:8080; root /data/www; }
}
"""


def get(address, path):
    with contextlib.suppress(OSError), socket.create_connection((address, 8080), 10) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        return b"".join(iter(lambda: connection.recv(65536), b""))
    return b""


@scenario
def nginx(env):
    """nginx answers as before, idle and in the middle of a download."""
    if not shutil.which("nginx"):
        raise Skip("needs nginx")
    command = ["/usr/sbin/nginx", "-c", "/data/nginx.conf", "-e", "/data/error.log",
               "-g", "daemon off;"]
    with Network(3) as network, Connected(env, change=as_user(network, command, 33)) as c:
        make_host_directories(c)
        (c.data / "www").mkdir()
        (c.data / "nginx.conf").write_text(NGINX)
        (c.data / "www/page").write_text("the page")
        content = os.urandom(24 << 20)
        (c.data / "www/large").write_bytes(content)
        c.runc("run", "-d", "--bundle", c.bundle, c.name)
        wait_for("nginx", lambda: get(network.inside, "/page").endswith(b"the page"))
        Container.checkpoint(c, "--leave-running")
        expect(get(network.inside, "/page").endswith(b"the page"), "no answer after leave-running")
        image = Container.checkpoint(c)
        Container.restore(c, image)
        expect(get(network.inside, "/page").endswith(b"the page"), "no answer after a restore")
        with socket.create_connection((network.inside, 8080), 10) as slow:
            slow.settimeout(30 * PATIENCE)
            slow.sendall(b"GET /large HTTP/1.0\r\n\r\n")
            got = b""
            for _ in range(2):
                while len(got) < 1 << 20:
                    got += slow.recv(65536)
                c.checkpoint("--leave-running")
            image = c.checkpoint()
            c.restore(image)
            while part := slow.recv(1 << 20):
                got += part
        expect(got.endswith(b"\r\n\r\n" + content), f"{len(got)} bytes of the download came, or others")
    c.gone()


def register_faults(program, kind):
    for how in (faults.FAIL, faults.KILL):
        word = "fail" if how == faults.FAIL else "kill"

        @scenario(name=f"dump_{word}_{program}", seconds=300)
        def dump(env, how=how):
            faults.sweep_dump(env, program, how, faults.SAMPLE, kind)

        @scenario(name=f"restore_{word}_{program}", seconds=300)
        def restore(env, how=how):
            faults.sweep_restore(env, program, how, faults.SAMPLE, kind)


register_faults("inet", Container)
register_faults("tcp", Connected)
