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


@contextlib.contextmanager
def counting(env, number, command, prepare=lambda c: None, settings=None):
    """A container whose program writes a growing number to /data/ticks, the next one whenever all of
    it works; and a look whether it still does."""
    def change(config):
        as_user(network, command, NOBODY)(config)
        if settings:
            config["mounts"].append({"destination": settings, "type": "bind", "source": settings,
                                     "options": ["bind", "ro"]})
    with Network(number) as network, Connected(env, change=change) as c:
        make_host_directories(c)
        if settings:
            (c.bundle / "rootfs" / settings.lstrip("/")).mkdir(parents=True)
        prepare(c)
        os.chmod(c.data, 0o777)
        c.runc("run", "-d", "--bundle", c.bundle, c.name)
        ticks = c.data / "ticks"
        wait_for(command[0], ticks.exists)
        last = 0

        def look():
            nonlocal last
            wait_for("it to count on", lambda: int(ticks.read_text()) > last + 20)
            now = int(ticks.read_text())
            expect(now > last, f"it stands at {now}, stood at {last}")
            last = now
        yield c, look


def counts_on(*args):
    with counting(*args) as (c, look):
        c.goes_through_all(look)
    c.gone()


def java_at_work(env):
    command, javac = needs("java"), needs("javac")

    def prepare(c):
        (c.data / "Busy.java").write_text(JAVA)
        run(javac, "-d", c.data, c.data / "Busy.java")
    return env, 22, [str(command), "-Xmx96m", "-cp", "/data", "Busy"], prepare, "/etc/java-17-openjdk"


@scenario(label="long")
def java(env):
    """A JIT at work, threads, garbage collection."""
    counts_on(*java_at_work(env))


GO = """
package main

import (
	"fmt"
	"os"
	"sync/atomic"
	"time"
)

func main() {
	ring := make([]chan int, 200)
	for i := range ring {
		ring[i] = make(chan int)
	}
	for i := range ring {
		go func(from, to chan int) {
			for n := range from {
				to <- n + 1
			}
		}(ring[i], ring[(i+1)%len(ring)])
	}
	var timers, work int64
	for i := 1; i <= 50; i++ {
		go func(every time.Duration) {
			for range time.Tick(every) {
				atomic.AddInt64(&timers, 1)
			}
		}(time.Duration(i) * time.Millisecond)
	}
	for i := 0; i < 2; i++ {
		go func() {
			for kept := [][]byte{}; ; atomic.AddInt64(&work, 1) {
				kept = append(kept, make([]byte, 10000))
				if len(kept) > 100 {
					kept = nil
				}
				time.Sleep(time.Millisecond)
			}
		}()
	}
	ring[0] <- 1
	for n, seen := 1, int64(0); ; n++ {
		time.Sleep(5 * time.Millisecond)
		now := atomic.LoadInt64(&timers) + atomic.LoadInt64(&work)
		if now == seen {
			n-- // nothing moved
		}
		seen = now
		os.WriteFile("/data/ticks.new", []byte(fmt.Sprintln(n)), 0666)
		os.Rename("/data/ticks.new", "/data/ticks")
	}
}
"""


@scenario(label="long")
def go(env):
    """Goroutines on several threads, timers, a collector: its runtime has signals of its own under way."""
    compiler = needs("go")

    def prepare(c):
        (c.data / "busy.go").write_text(GO)
        run(compiler, "build", "-o", c.data / "busy", c.data / "busy.go",
            env={**os.environ, "GOCACHE": str(c.dir / "go"), "GOPATH": str(c.dir), "CGO_ENABLED": "0"})
    counts_on(env, 24, ["/data/busy"], prepare)


RUBY = """
echo = IO.popen(["cat"], "r+")
queue, count = Queue.new, 0
4.times { |n| Thread.new { loop { queue << n; sleep 0.001 } } }
trap("ALRM") { count += 1 }
(1..).each do |tick|
  4.times { queue.pop }
  echo.puts tick
  raise "the child says otherwise" unless echo.gets.to_i == tick
  Process.kill("ALRM", Process.pid)
  (1..1000).map { |n| n.to_s * 3 }.sort
  File.write("/data/ticks.new", "#{tick}\n")
  File.rename("/data/ticks.new", "/data/ticks")
end
"""


@scenario(label="long")
def ruby(env):
    """Threads, signals to itself, and a child on both ends of its pipes."""
    counts_on(env, 25, [str(needs("ruby")), "-e", RUBY])


PERL = """
use strict; use IPC::Open2; use Time::HiRes qw(setitimer ITIMER_REAL sleep);
my $alarms = 0;
$SIG{ALRM} = sub { $alarms++ };
setitimer(ITIMER_REAL, 0.002, 0.002);
my $child = open2(my $from, my $to, "cat");
$to->autoflush(1);
for (my $tick = 1; ; $tick++) {
  my $before = $alarms;
  print $to "$tick\n";
  my $line = <$from>;
  die "the child says otherwise" if $line != $tick;
  sleep(0.01) while $alarms == $before;
  open(my $file, ">", "/data/ticks.new") or die;
  print $file "$tick\n";
  close($file);
  rename("/data/ticks.new", "/data/ticks");
}
"""


@scenario(label="long")
def perl(env):
    """A timer's signals all the time, and a child on both ends of its pipes."""
    counts_on(env, 26, [str(needs("perl")), "-e", PERL])


PYTHON = """
import os, subprocess, threading, queue, time
echo = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
work = queue.Queue(100)
def producer(n):
    while True:
        work.put(sum(range(500)) + n)
        time.sleep(0.001)
for n in range(4):
    threading.Thread(target=producer, args=(n,), daemon=True).start()
tick = 0
while True:
    tick += 1
    for _ in range(4):
        assert work.get() // 1000 == 124
    echo.stdin.write(b"%d\\n" % tick)
    echo.stdin.flush()
    assert int(echo.stdout.readline()) == tick
    with open("/data/ticks.new", "w") as file:
        file.write("%d\\n" % tick)
    os.rename("/data/ticks.new", "/data/ticks")
"""


@scenario(label="long")
def python(env):
    """Threads, and a child on both ends of its pipes."""
    counts_on(env, 27, ["/usr/bin/python3", "-c", PYTHON])


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
