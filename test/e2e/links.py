"""Network links that a container has beside loopback: those made of nothing outside come back."""
import json
import re

import faults
from harness import Container, Skip, expect, run, scenario, wait_for

# What goes on by itself for a second or two after a link is up.
VOLATILE = ("valid_life_time", "preferred_life_time", "stats64", "linkinfo", "flags", "tentative", "expires",
            "operstate", "state", "qdisc")
NO_APPLET = 'ip() { /bin/ip "$@"; }'  # a busybox for sh would run its own
FLAGS = {"UP", "NOARP", "PROMISC", "ALLMULTI", "MULTICAST", "DEBUG"}


def has(kind):
    """Whether this kernel knows such links."""
    on = ("link", "x0") if kind in ("vlan", "macvlan") else ()
    rest = ("id", "5") if kind == "vlan" else ()
    make = ["ip", "link", "add", *on, "name", "x2", "type", kind, *rest]
    pair = "ip link add name x0 type veth peer name x1"
    return not run("unshare", "-n", "sh", "-ec", "\n".join((NO_APPLET, pair, " ".join(make))), ok=None).returncode


class Inside:
    """`ip` in a container's network."""

    def __init__(self, c):
        self.c = c

    def __call__(self, script):
        return run("nsenter", "-t", self.c.init(), "-n", "sh", "-ec", f"{NO_APPLET}\n{script}").stdout

    def make(self, script):
        """And waits until nobody else is known to have its addresses."""
        self(script)
        wait_for("addresses to be known", lambda: "tentative" not in self("ip -6 address"))

    def read(self, command):
        return json.loads(self(f"ip -j -d {command}") or "[]")

    def picture(self):
        """What ip tells of links, addresses and routes, without what goes on changing."""
        def lasting(values):
            return {key: value for key, value in values.items() if key not in VOLATILE and "timer" not in key
                    and not key.startswith(("root_", "designated_", "topology_change", "tso_"))}

        def chosen(address):  # the kernel makes link-local ones in its own time
            return not address.get("local", address.get("dst", "")).startswith(("fe80:", "ff00:", "ff02:"))
        links = {}
        for link in self.read("address show"):
            info, addresses = link.get("linkinfo", {}), link.pop("addr_info")
            links[link["ifname"]] = (
                lasting(link), FLAGS & set(link["flags"]), lasting(info.get("info_data", {})),
                lasting(info.get("info_slave_data", {})), sorted(str(lasting(a)) for a in addresses if chosen(a)))
        routes = [sorted(str(lasting(r)) for r in self.read(f"{family} route show table all") if chosen(r))
                  for family in ("-4", "-6")]
        return links, routes, self("cat /proc/sys/net/ipv4/conf/vb/rp_filter /proc/sys/net/ipv6/conf/vc/disable_ipv6")


def same(before, after):
    for name in before[0].keys() | after[0].keys():
        expect(before[0].get(name) == after[0].get(name),
               f"link {name}:\n{before[0].get(name)}\nis\n{after[0].get(name)}")
    expect(before == after, f"routes and sysctls:\n{before[1:]}\nare\n{after[1:]}")


BRIDGE = """
ip link add name br0 address 02:00:00:00:00:10 type bridge forward_delay 300 ageing_time 1234 priority 4096
ip link add name va address 02:00:00:00:00:11 index 70 type veth peer name vb address 02:00:00:00:00:12 index 60
ip link set va master br0
ip link set va type bridge_slave learning off hairpin on priority 5
ip link add name vc type veth peer name vd
ip link set vc alias spare txqueuelen 77 group 5
ip link set vc mtu 1400
echo 2 >/proc/sys/net/ipv4/conf/vb/rp_filter
echo 1 >/proc/sys/net/ipv6/conf/vc/disable_ipv6
ip link set vd addrgenmode none
ip link set br0 up
ip link set va up
ip link set vb up
ip link set vc up promisc on
ip address add 10.9.0.1/24 dev br0
ip address add 10.9.1.1/24 dev vb label vb:one
ip address add fd00::1/64 dev vb nodad
ip address add fd00::2/64 dev br0
ip route add 10.10.0.0/16 via 10.9.0.7 dev br0
ip -6 route add fd01::/64 via fd00::9 dev vb
"""
MORE = {
    "dummy": "ip link add name d0 mtu 1300 type dummy\nip link set d0 up\nip address add 10.9.2.1/32 dev d0",
    "vlan": "ip link add link br0 name br0.5 type vlan id 5\nip link set br0.5 up\n"
            "ip address add 10.9.5.1/24 dev br0.5\nip link add link vb name down type vlan id 6 reorder_hdr off",
    "macvlan": "ip link add link vb name mv address 02:00:00:00:00:20 type macvlan mode bridge\nip link set mv up\n"
               "ip address add 10.9.6.1/24 dev mv",
}


@scenario
def links(env):
    """A bridge with a port, pairs, and what lies on them; twice."""
    if not has("bridge"):
        raise Skip("this kernel has no bridges")
    with Container(env, "counter") as c:
        c.start()
        inside = Inside(c)
        inside.make(BRIDGE + "\n".join(text for name, text in MORE.items() if has(name)))
        before = inside.picture()
        expect(len(before[0]) > 5, f"links: {before[0].keys()}")
        for _ in range(2):
            image = c.checkpoint()
            shown = run(env.stasis, "inspect", image).stdout
            expect("br0 (bridge)" in shown, shown)
            c.restore(image)
            same(before, inside.picture())
            c.ask()
    c.gone()


@scenario
def links_of_the_runtime(env):
    """A pair's end on the host is the runtime's to make, and the hook's at the restore; who has no
    runtime is told before the freeze. What a hook has made again is left as it is."""
    if not has("bridge"):
        raise Skip("this kernel has no bridges")
    with Container(env, "counter") as c:
        c.start()
        inside = Inside(c)
        outside = f"sts{c.init()}"
        run("ip", "link", "add", "name", outside, "type", "veth", "peer", "name", "eth0", "netns", c.init())
        try:
            inside("ip link add name br0 index 50 type bridge; ip link set eth0 master br0; ip link set br0 up")
            refused = run(env.stasis, "criu", "dump", "-t", c.init(), "-D", c.dir, "-v4", ok=False).stderr
            expect("network interface eth0" in refused and "other end in another network namespace" in refused, refused)
            c.ask()
            image = c.checkpoint()
            log = (c.work_dir / "dump.log").read_text()
            expect("eth0 has its other end in another network namespace: it isn't taken along" in log, log[-2000:])
        finally:
            run("ip", "link", "delete", outside, ok=None)
        c.restore(image)
        names = [link["ifname"] for link in inside.read("link show")]
        expect(names == ["lo", "br0"], f"links: {names}")
        image = c.checkpoint()

        def hook(script):
            path = c.bundle / "config.json"
            config = json.loads(path.read_text())
            config["hooks"]["prestart"] = [{"path": "/bin/sh", "args": ["sh", "-c", (
                "pid=$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/'); exec nsenter -t $pid -n " + script)],
                "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}]
            path.write_text(json.dumps(config))
        hook("/bin/ip link add name br0 index 50 address 02:00:00:00:00:77 type bridge")
        c.restore(image)
        made, = (link for link in inside.read("link show") if link["ifname"] == "br0")
        expect(made["address"] == "02:00:00:00:00:77", f"not the hook's: {made}")
        image = c.checkpoint()
        hook("/bin/ip link add name br0 index 51 type bridge")
        c.restore(image, ok=False)
        expect("br0: it had index 50, and br0 has index 51 now" in c.engine_logs(), c.engine_logs())
    c.gone()


class Linked(Container):
    """With a bridge, a pair and what lies on them."""

    def start(self):
        if not has("bridge"):
            raise Skip("this kernel has no bridges")
        super().start()
        Inside(self).make(BRIDGE)
        return self

    def observe(self):
        """The kernel's own addresses and routes come in its own time and order."""
        seen = super().observe()
        lines = [re.sub(r"(, )?'fe80:[^']*'", "", line) for line in seen["network"]]
        seen["network"] = sorted(line for line in lines if not re.search(" (fe80|ff00):", line))
        return seen


for _how, _word in ((faults.FAIL, "fail"), (faults.KILL, "kill")):
    scenario(lambda env, how=_how: faults.sweep_dump(env, "counter", how, faults.SAMPLE, Linked),
             name=f"dump_{_word}_links", seconds=300)
    scenario(lambda env, how=_how: faults.sweep_restore(env, "counter", how, faults.SAMPLE, Linked),
             name=f"restore_{_word}_links", seconds=300)
