#!/usr/bin/env python3
"""What can be seen of a container from outside, and how two such views differ.

Shares no code with the engine and asks the kernel by other ways where there are any. What may
rightly differ after a restore (pids of the host, inode and device numbers of new pipes, mounts and
namespaces) is replaced by labels in order of first appearance, so that what belonged together must
still belong together.

    observe.py PID          prints the view of the container whose init has that pid
    observe.py PID PID2     compares two
"""
import ctypes
import hashlib
import json
import os
import pathlib
import re
import stat
import subprocess
import sys

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "uts", "user")
STATUS = ("Name", "Umask", "Uid", "Gid", "Groups", "NSpgid", "NSsid", "Threads", "SigPnd", "ShdPnd",
          "SigBlk", "SigIgn", "SigCgt", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb",
          "NoNewPrivs", "Seccomp", "Seccomp_filters", "THP_enabled", "Speculation_Store_Bypass",
          "Cpus_allowed", "Mems_allowed")
KCMP_FILE, SYS_KCMP = 0, 312
libc = ctypes.CDLL(None, use_errno=True)


class Labels:
    """Numbers that mean nothing become 1, 2, 3, ... in order of appearance, each kind by itself."""

    def __init__(self):
        self.known = {}

    def of(self, kind, number):
        numbers = self.known.setdefault(kind, {})
        return numbers.setdefault(number, len(numbers) + 1)

    def link(self, text):
        return re.sub(r"^(pipe|socket|net|mnt|pid|uts|ipc|user|cgroup|time):\[(\d+)\]",
                      lambda m: f"{m[1]}:#{self.of(m[1], m[2])}", text)


def read(path):
    try:
        return pathlib.Path(path).read_text(errors="surrogateescape")
    except OSError as error:
        return f"<{error.strerror}>"


def fields(text):
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def status_of(path):
    status = fields(read(path + "/status"))
    view = {key: " ".join(status[key].split()) for key in STATUS if key in status}
    for key in ("NSpgid", "NSsid"):
        view[key] = view[key].split()[-1]
    return view


def inner_pid(path):
    return int(fields(read(path + "/status"))["NSpid"].split()[-1])


def stat_of(path):
    """The fields of /proc/PID/stat from the state on, by the number proc(5) gives them."""
    text = read(path + "/stat")
    return dict(enumerate(text[text.rindex(")") + 2:].split(), 3))


def mappings(pid):
    """VMAs with their flags; neighbours that differ in nothing are one."""
    merged, last = [], None
    for line in read(f"/proc/{pid}/smaps").splitlines():
        head = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+) ([0-9a-f]+) \S+ (\d+) *(.*)", line)
        if head:
            start, end, offset = int(head[1], 16), int(head[2], 16), int(head[4], 16)
            last = {"start": start, "end": end, "perms": head[3], "offset": offset,
                    "what": re.sub(r"^/(memfd:|(memfd:/)?dev/zero|SYSV\w+) \(deleted\)$", "shared memory", head[6])}
        elif line.startswith("VmFlags:") and last["what"] != "[vsyscall]":
            # soft-dirty and accounting are the kernel's own book-keeping
            last["flags"] = " ".join(f for f in line.split()[1:] if f not in ("sd", "ac"))
            before = merged[-1] if merged else None
            anonymous = last["offset"] == 0 and not last["what"].startswith("/")
            if (before and before["end"] == last["start"] and
                    all(before[k] == last[k] for k in ("perms", "what", "flags")) and
                    (anonymous or before["offset"] + before["end"] - before["start"] == last["offset"])):
                before["end"] = last["end"]
            else:
                merged.append(last)
    return [f"{m['start']:x}-{m['end']:x} {m['perms']} {m['offset']:x} {m['what']} [{m['flags']}]"
            for m in merged]


def descriptors(pid, labels, mountpoints, seen_files):
    found = {}
    for number in sorted(int(n) for n in os.listdir(f"/proc/{pid}/fd")):
        try:
            link = os.readlink(f"/proc/{pid}/fd/{number}")
        except OSError:
            continue
        info = fields(read(f"/proc/{pid}/fdinfo/{number}"))
        flags = info.pop("flags", "").strip()
        position = info.pop("pos", "").strip()
        mount = mountpoints.get(info.pop("mnt_id", "").strip(), "-")
        info.pop("ino", None)
        if info.pop("Pid", "0").strip() != "0":  # a pidfd: only the innermost number stays
            info["NSpid"] = info["NSpid"].split()[-1]
        if "lock" in info:  # that of a process on the host is in it
            info["lock"] = re.sub(r" \d+ (?=\w+:\w+:\d+ )", " ", info["lock"])
        if flags and int(flags, 8) & os.O_APPEND:
            position = "append"
        found[str(number)] = (f"{labels.link(link)} flags {flags} pos {position} on {mount} file "
                              f"#{same_file(pid, number, link, seen_files)} {info or ''}").rstrip()
    return found


def same_file(pid, number, link, seen):
    """A label for the open file itself: equal for descriptors that share one. `seen` by link."""
    for label, other, fd in seen.setdefault(link, []):
        if libc.syscall(SYS_KCMP, pid, other, KCMP_FILE, number, fd) == 0:
            return label
    label = 1 + sum(map(len, seen.values()))
    seen[link].append((label, pid, number))
    return label


def places(table):
    """For each mount (id -> parent, mount point) one name for its place: its mount point, with a '
    where the way there leads over another mount at the same point: /a'/b stands on the upper one of two at /a."""
    names = {}

    def name(ident):
        if ident not in names:
            parent, point = table[ident]
            if parent not in table:
                names[ident] = point
            elif (below := table[parent][1]) == point:
                names[ident] = name(parent) + "'"
            else:
                names[ident] = name(parent).rstrip("/") + (point if below == "/" else point[len(below):])
        return names[ident]
    return {ident: name(ident) for ident in table}


def mounts(pid):
    """mountinfo without numbers, and mount id -> place. A parent is told by its place, a device and a
    peer group by the first place that has it."""
    rows, table, first = [], {}, {}
    text = read(f"/proc/{pid}/mountinfo")
    if text.startswith("<"):
        raise ProcessLookupError(f"process {pid} ends while it is looked at: {text}")
    for line in text.splitlines():
        left, right = line.split(" - ", 1)
        ident, parent, device, root, point, options, *tags = left.split(" ")
        table[ident] = parent, point
        rows.append((ident, device, root, options, tags, right))
    mountpoints = places(table)
    for ident, device, _, _, tags, _ in rows:
        for name in (device, *tags):
            first[name] = min(first.get(name, mountpoints[ident]), mountpoints[ident])
    view = []
    for ident, device, root, options, tags, right in rows:
        point, parent = mountpoints[ident], table[ident][0]
        what = f"dev {first[device] if device.startswith('0:') else device} root {root} {options} {right}"
        if root == "/null":  # a masked file: the null device, from whichever file system
            what = f"the null device {'ro' if 'ro' in options.split(',') else 'rw'}"
        tags = [re.sub(r":\d+", ":" + first[t], t) for t in tags]
        view.append(f"{point} below {mountpoints.get(parent, 'outside')} {what} {' '.join(tags)}".rstrip())
    return view, mountpoints


def across(pids):
    """What mount namespaces have in common: for each superblock and peer group that is in several
    of them, where it is. `pids`: label of the namespace -> a process in it."""
    places = {}
    for label, pid in pids.items():
        for line in read(f"/proc/{pid}/mountinfo").splitlines():
            left = line.split(" - ", 1)[0].split(" ")
            for what, name in [("dev", left[2]), *(tag.split(":") for tag in left[6:] if ":" in tag)]:
                kind = "group" if what in ("shared", "master") else what
                places.setdefault((kind, name), []).append((label, f"{what} {left[4]} {left[3]}"))
    return sorted(sorted(f"{label}: {place}" for label, place in found) for found in places.values()
                  if len({label for label, _ in found}) > 1)


def tmpfs_content(pid):
    """What lies in the tmpfs mounts that the host doesn't have."""
    hosts = {line.split(" ")[2] for line in read("/proc/self/mountinfo").splitlines()}
    content = {}
    for line in read(f"/proc/{pid}/mountinfo").splitlines():
        left, right = line.split(" - ", 1)
        device, point = left.split(" ")[2], left.split(" ")[4]
        if not right.startswith("tmpfs ") or device in hosts:
            continue
        top = f"/proc/{pid}/root{point}"
        major, minor = map(int, device.split(":"))
        device = os.makedev(major, minor)
        try:
            if os.lstat(top).st_dev != device or not os.path.isdir(top):
                continue  # hidden by another mount; a masked or bound file
        except OSError:
            continue
        for directory, names, files in os.walk(top):
            if os.lstat(directory).st_dev != device:
                names.clear()
                continue
            content[directory[len(f"/proc/{pid}/root"):]] = describe(directory)
            for name in files + [n for n in names if os.path.islink(os.path.join(directory, n))]:
                path = os.path.join(directory, name)
                if os.lstat(path).st_dev == device:
                    content[path[len(f"/proc/{pid}/root"):]] = describe(path)
    return content


def describe(path):
    s = os.lstat(path)
    text = f"{stat.filemode(s.st_mode)} {s.st_uid}:{s.st_gid} links {s.st_nlink}"
    if stat.S_ISREG(s.st_mode):
        digest = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()[:16]
        text += f" {s.st_size} bytes {digest} modified {s.st_mtime_ns}"
        if s.st_blocks * 512 < s.st_size:
            text += f" in {s.st_blocks} blocks"
    elif stat.S_ISLNK(s.st_mode):
        text += f" -> {os.readlink(path)}"
    elif stat.S_ISCHR(s.st_mode) or stat.S_ISBLK(s.st_mode):
        text += f" device {os.major(s.st_rdev)}:{os.minor(s.st_rdev)}"
    attributes = {name: os.getxattr(path, name, follow_symlinks=False)
                  for name in sorted(os.listxattr(path, follow_symlinks=False))}
    return text + (f" {attributes}" if attributes else "")


def inside(pid, namespace, *command):
    result = subprocess.run(["nsenter", "-t", str(pid), f"--{namespace}", *command],
                            capture_output=True, text=True, check=False)
    return result.stdout if result.returncode == 0 else f"<{result.stderr.strip()}>"


def network(pid):
    links = []
    for link in json.loads(inside(pid, "net", "ip", "-j", "addr") or "[]"):
        addresses = sorted(f"{a['local']}/{a['prefixlen']} {a['scope']}" for a in link["addr_info"])
        links.append(f"{link['ifname']} {','.join(sorted(link['flags']))} mtu {link['mtu']} {addresses}")
    routes = [inside(pid, "net", "ip", family, "route", "show", "table", "all") for family in ("-4", "-6")]
    return links + [r.strip() for table in routes for r in table.splitlines()]


def process(pid, labels, seen_files, mounts_of, seers):
    path = f"/proc/{pid}"
    mount_rows, mountpoints = mounts(pid)
    label = namespace(pid, "mnt", labels)
    mounts_of[label] = mount_rows
    seers.setdefault(label, pid)
    stats = stat_of(path)
    view = {
        "status": status_of(path),
        "parent": parent_of(path),
        "comm": read(path + "/comm"), "cmdline": read(path + "/cmdline"),
        "environ": read(path + "/environ"), "exe": os.readlink(path + "/exe"),
        "auxv": pathlib.Path(path + "/auxv").read_bytes().hex(),
        "cwd": os.readlink(path + "/cwd"), "root": os.readlink(path + "/root"),
        "limits": {line[:26].strip(): line[26:].split() for line in read(path + "/limits").splitlines()},
        "oom_score_adj": read(path + "/oom_score_adj").strip(),
        "coredump_filter": read(path + "/coredump_filter").strip(),
        "personality": read(path + "/personality").strip(),
        "lsm": read(path + "/attr/current").strip("\0\n"),
        "cgroup": [re.sub(r"^\d+:", "", line) for line in read(path + "/cgroup").splitlines()],
        # stat: start_code .. start_stack, exit signal, start_data .. env_end
        "addresses": [stats[n] for n in (26, 27, 28, 38, 45, 46, 47, 48, 49, 50, 51)],
        "tty": stats[7],
        "namespaces": {n: namespace(pid, n, labels) for n in NAMESPACES},
        "fds": descriptors(pid, labels, mountpoints, seen_files),
        "mappings": mappings(pid),
        "threads": {},
    }
    for tid in sorted(os.listdir(path + "/task"), key=int):
        task = f"{path}/task/{tid}"
        stats = stat_of(task)
        view["threads"][str(inner_pid(task))] = {
            "status": status_of(task), "comm": read(task + "/comm"),
            "nice": stats[19], "priority": stats[40], "policy": stats[41]}
    return view


def parent_of(path):
    parent = fields(read(path + "/status"))["PPid"].strip()
    mine = len(fields(read(path + "/status"))["NSpid"].split())
    theirs = fields(read(f"/proc/{parent}/status")).get("NSpid", "").split()
    return int(theirs[-1]) if len(theirs) == mine and mine > 1 else 0


def namespace(pid, name, labels):
    here, there = os.stat(f"/proc/self/ns/{name}").st_ino, os.stat(f"/proc/{pid}/ns/{name}").st_ino
    return "the host's" if here == there else f"own #{labels.of('ns-' + name, there)}"


def pids_of(init):
    """All processes in the pid namespace of `init`."""
    space = os.stat(f"/proc/{init}/ns/pid").st_ino
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}/ns/pid").st_ino == space:
                    found.append(int(name))
            except OSError:
                pass
    return sorted(found, key=lambda pid: inner_pid(f"/proc/{pid}"))


def container(init):
    """The view of the container with that init; it should stand still meanwhile."""
    labels, seen_files, mounts_of, seers = Labels(), {}, {}, {}
    return {
        "processes": {str(inner_pid(f"/proc/{pid}")): process(pid, labels, seen_files, mounts_of, seers)
                      for pid in pids_of(init)},
        "mounts": mounts_of,
        "across mount namespaces": across(seers),
        "host name": inside(init, "uts", "uname", "-n").strip(),
        "domain name": inside(init, "uts", "cat", "/proc/sys/kernel/domainname").strip(),
        "ipc": {name: inside(init, "ipc", "cat", f"/proc/sys/kernel/{name}").strip()
                for name in ("shmmax", "shmall", "shmmni", "sem", "msgmax", "msgmnb", "msgmni")},
        "network": network(init),
        "tmpfs": tmpfs_content(init),
    }


def diff(before, after, where=""):
    """Differences as lines that say where: '/processes/1/fds/3: was ..., is ...'."""
    if before == after:
        return []
    if isinstance(before, dict) and isinstance(after, dict):
        lines = []
        for key in list(before) + [k for k in after if k not in before]:
            place = f"{where}/{key}"
            if key not in after:
                lines.append(f"{place}: gone, was {before[key]!r:.600}")
            elif key not in before:
                lines.append(f"{place}: new: {after[key]!r:.600}")
            else:
                lines += diff(before[key], after[key], place)
        return lines
    if isinstance(before, list) and isinstance(after, list):
        gone = [f"{where}: gone: {row}" for row in before if row not in after]
        new = [f"{where}: new:  {row}" for row in after if row not in before]
        return gone + new or [f"{where}: another order: was {before}, is {after}"]
    return [f"{where}: was {before!r:.600}, is {after!r:.600}"]


def main():
    views = [container(int(pid)) for pid in sys.argv[1:3]]
    if len(views) == 1:
        print(json.dumps(views[0], indent=2))
        return 0
    lines = diff(*views)
    print("\n".join(lines))
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
