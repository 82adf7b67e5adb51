"""Real programs, each as a user of its own, under load, with clients that must not notice."""
import contextlib
import glob
import http.client
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

from harness import PATIENCE, Skip, expect, run, scenario, wait_for
from inet import Connected, Network, as_user, make_host_directories

NOBODY = 65534


def needs(program, pattern=None):
    """Its file, which may lie where no PATH leads."""
    found = [shutil.which(program), *sorted(glob.glob(pattern or ""))]
    for path in filter(None, found):
        return pathlib.Path(path).resolve()
    raise Skip(f"needs {program}")


NODE = """
const http = require('http');
let count = 0;
setInterval(() => { for (let i = 0, s = 0; i < 2e5; i++) s += Math.sqrt(i); }, 5);
http.createServer((request, response) => response.end(String(++count))).listen(8080, '0.0.0.0');
"""


@scenario(label="long")
def node(env):
    """node and a client that keeps its HTTP connection."""
    command = [str(needs("node")), "-e", NODE]
    with Network(21) as network, Connected(env, change=as_user(network, command, NOBODY)) as c:
        make_host_directories(c)
        c.runc("run", "-d", "--bundle", c.bundle, c.name)
        client = http.client.HTTPConnection(network.inside, 8080, timeout=30 * PATIENCE)

        def connected():
            with contextlib.suppress(OSError):
                client.connect()
                return True
        wait_for("node", connected)
        line, count = client.sock, 0

        def look():
            nonlocal count
            for _ in range(20):
                client.request("GET", "/")
                count += 1
                answer = client.getresponse().read()
                expect(answer == b"%d" % count, f"{answer} came back, not {count}")
            expect(client.sock is line, "the client had to connect again")
        c.goes_through_all(look)
    c.gone()


JAVA = """
import java.io.*;
import java.nio.file.*;
import java.util.*;
import java.util.concurrent.*;
public class Busy {
  static volatile long work;
  public static void main(String[] arguments) throws Exception {
    ExecutorService pool = Executors.newFixedThreadPool(4);
    for (int thread = 0; thread < 4; thread++) {
      final int seed = thread;
      pool.submit(() -> {
        Map<Long, byte[]> kept = new HashMap<>();
        for (long i = seed; ; i++) {
          kept.put(i % 4096, new byte[(int) (i % 977)]);
          long sum = 0;
          for (byte[] one : kept.values()) sum += one.length;
          work = sum;
          if (i % 64 == 0) Thread.sleep(1);
        }
      });
    }
    for (long n = 1; ; n++) {
      Files.writeString(Path.of("/data/ticks.new"), n + "\\n");
      Files.move(Path.of("/data/ticks.new"), Path.of("/data/ticks"), StandardCopyOption.ATOMIC_MOVE);
      Thread.sleep(5);
    }
  }
}
"""


@scenario(label="long")
def java(env):
    """A JIT at work, threads, garbage collection."""
    command = [str(needs("java")), "-Xmx96m", "-cp", "/data", "Busy"]
    needs("javac")
    settings = "/etc/java-17-openjdk"

    def change(config):
        as_user(network, command, NOBODY)(config)
        config["mounts"].append({"destination": settings, "type": "bind", "source": settings,
                                 "options": ["bind", "ro"]})
    with Network(22) as network, Connected(env, change=change) as c:
        make_host_directories(c)
        (c.bundle / "rootfs" / settings.lstrip("/")).mkdir(parents=True)
        (c.data / "Busy.java").write_text(JAVA)
        run("javac", "-d", c.data, c.data / "Busy.java")
        os.chmod(c.data, 0o777)
        c.runc("run", "-d", "--bundle", c.bundle, c.name)
        ticks = c.data / "ticks"
        wait_for("java", ticks.exists)
        last = 0

        def look():
            nonlocal last
            wait_for("it to count on", lambda: int(ticks.read_text()) > last + 20)
            now = int(ticks.read_text())
            expect(now > last, f"it stands at {now}, stood at {last}")
            last = now
        c.goes_through_all(look)
    c.gone()


class Session:
    """A psql that stays connected."""

    def __init__(self, address):
        self.psql = subprocess.Popen(
            ["psql", "-h", address, "-U", "postgres", "-qAtX", "-v", "ON_ERROR_STOP=1", "postgres"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def ask(self, question):
        self.psql.stdin.write(question + ";\n\\echo end\n")
        self.psql.stdin.flush()
        answer = []
        for line in self.psql.stdout:
            if line.strip() == "end":
                return "\n".join(answer)
            answer.append(line.strip())
        raise AssertionError(f"{question}: {answer}")

    def close(self):
        self.psql.stdin.close()
        self.psql.wait()


@scenario(label="long")
def postgres(env):
    """postgres with an open transaction, and a client that writes all the while."""
    server = needs("postgres", "/usr/lib/postgresql/*/bin/postgres")
    command = [str(server), "-D", "/data/pg", "-c", "listen_addresses=*", "-c",
               "unix_socket_directories=/data", "-c", "shared_buffers=16MB"]
    with Network(23) as network, Connected(env, change=as_user(network, command, NOBODY)) as c:
        make_host_directories(c)
        c.data.chmod(0o777)
        with tempfile.TemporaryDirectory() as aside:  # where others than root may go
            os.chown(aside, NOBODY, NOBODY)
            subprocess.run([server.parent / "initdb", "-D", f"{aside}/pg", "-U", "postgres",
                            "--no-sync", "--no-locale", "-A", "trust"], user=NOBODY, group=NOBODY,
                           check=True, env={"PATH": os.environ["PATH"]},
                           stdout=subprocess.DEVNULL, cwd="/")
            os.rename(f"{aside}/pg", c.data / "pg")
        with open(c.data / "pg/pg_hba.conf", "a") as access:
            access.write("host all all 0.0.0.0/0 trust\n")
        c.runc("run", "-d", "--bundle", c.bundle, c.name)
        wait_for("postgres", lambda: run(server.parent / "pg_isready", "-h", network.inside,
                                         ok=None).returncode == 0)
        writer, waiting = Session(network.inside), Session(network.inside)
        writer.ask("create table t (n int)")
        waiting.ask("begin")
        waiting.ask("insert into t values (-1)")
        count = 0

        def look():
            nonlocal count
            for _ in range(10):
                count += 1
                writer.ask(f"insert into t values ({count})")
            rows = writer.ask("select count(*), max(n) from t where n > 0")
            expect(rows == f"{count}|{count}", f"the table has {rows}, not {count}")
        c.goes_through_all(look)
        waiting.ask("commit")
        expect(writer.ask("select count(*) from t where n < 0") == "1", "the transaction is lost")
        time.sleep(0.1)
        writer.close()
        waiting.close()
    c.gone()
