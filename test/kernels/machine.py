"""A machine in qemu with a kernel of Debian's, from an initramfs with busybox, runc, python3, the binaries
under test and these tests; cgroup v2 only.
"""
import pathlib
import re
import shutil
import signal
import subprocess
import sys

TESTS = pathlib.Path(__file__).resolve().parents[1]
TOOLS = ["/usr/bin/busybox", "/usr/sbin/runc", "/usr/bin/python3.11", "/usr/bin/nsenter", "/bin/ip",
         "/usr/sbin/apparmor_parser", "/bin/bash", "/usr/bin/unshare", "/usr/bin/bindfs",
         "/sbin/mkfs.ext2", "/sbin/losetup", "/bin/mount", "/bin/umount", "/usr/sbin/iptables-legacy",
         "/usr/bin/strace", "/usr/bin/pkill", "/usr/bin/ldd", "/bin/tar", "/bin/gzip"]
PLUGINS = "/usr/lib/x86_64-linux-gnu/xtables"  # of iptables
# What the kernel and `ip` ask for by themselves must be there, these must be loaded.
MODULE_PLACES = ("net", "lib", "crypto", "fs/overlayfs", "fs/fuse", "fs/binfmt_misc.ko", "fs/nls",
                 "drivers/net/veth.ko", "drivers/net/dummy.ko", "drivers/net/macvlan.ko", "drivers/net/tun.ko",
                 "drivers/block/loop.ko")
MODULES = ("loop", "fuse", "overlay", "binfmt_misc")
PYTHON = pathlib.Path("/usr/lib/python3.11")
# qemu 7.2 loses flags in cmpxchg16b, by which Debian 13's kernel allocates memory where there is one.
CPU = "max,-cx16"
INIT = """#!/bin/busybox sh
export PATH=/bin
/bin/busybox mkdir -p /new
/bin/busybox mount -t tmpfs -o size=80% tmpfs /new
for name in bin sbin etc lib lib64 packaging tests tmp usr under-test second; do /bin/busybox cp -a /$name /new/; done
exec /bin/busybox switch_root /new /second
"""
SECOND = """#!/bin/busybox sh
export PATH=/bin:/usr/bin PYTHONDONTWRITEBYTECODE=1 STASIS_TEST_PATIENCE=3
mkdir -p /proc /sys /dev /run /root /var {above_tests} {above_build}
ln -s /tests {above_tests}/test
ln -s /under-test {build}
for name in hosts hostname resolv.conf; do echo "$name of the machine" >/etc/$name; done
echo root:x:0:0:root:/root:/bin/sh >/etc/passwd
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t securityfs securityfs /sys/kernel/security
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
mount -t cgroup2 none /sys/fs/cgroup
if [ -e /lib/modules ]; then for module in {modules}; do modprobe $module; done; fi
ip link set lo up
ulimit -n 20000
echo "kernel $(uname -r)"
{command}
echo "EXIT CODE $?"
sync
poweroff -f
"""


def kernel_image(cache, release="bookworm"):
    """The kernel of a Debian release, unpacked below `cache`; not installed."""
    printed = subprocess.run([TESTS / "debian/get-kernel", release, cache], check=True,
                             stdout=subprocess.PIPE, text=True).stdout
    return pathlib.Path(printed.strip())


def libraries(binary):
    """The files the dynamic linker would load for it, and the linker itself."""
    listing = subprocess.run(["ldd", binary], capture_output=True, text=True, check=False).stdout
    return re.findall(r"(/\S+) \(0x", listing)


def install(root, source, target=None):
    target = root / str(target or source).lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def install_modules(root, kernel):
    source, = (kernel.parents[1] / "lib/modules").iterdir()
    target = root / "lib/modules" / source.name
    for place in MODULE_PLACES:
        found = source / "kernel" / place
        if found.is_dir():
            shutil.copytree(found, target / "kernel" / place)
        else:
            install(root, found, target.relative_to(root) / "kernel" / place)
    for table in source.glob("modules.*"):
        install(root, table, target.relative_to(root) / table.name)
    subprocess.run(["busybox", "depmod", "-b", root, source.name], check=True)


def install_criu(root, wrapper):
    """The tree that get-criu unpacked, elsewhere; the wrapper names it."""
    text = pathlib.Path(wrapper).read_text()
    tree = re.search(r"exec (\S+)/lib64", text)[1]
    shutil.copytree(tree, root / "under-test/criu", symlinks=True)
    (root / "under-test/criu.sh").write_text(text.replace(tree, "/under-test/criu"))
    (root / "under-test/criu.sh").chmod(0o755)


def stage(root, build, names, command):
    """Fills the initramfs: it runs the shell command `command` and ends. What `names` of the build and
    the test programs are below /under-test as they are below `build`."""
    for name in ("bin", "etc", "tmp", "usr/bin", "usr/lib", "lib", "lib64", "under-test"):
        (root / name).mkdir(parents=True, exist_ok=True)
    binaries = TOOLS + [str(p) for p in (PYTHON / "lib-dynload").glob("*.so")]
    for name in names:
        install(root, build / name, f"/under-test/{name}")
        binaries.append(build / name)
    for tool in TOOLS:
        install(root, tool, f"/bin/{pathlib.Path(tool).name}")
    (root / "sbin").symlink_to("bin")
    (root / "bin/python3").symlink_to("python3.11")
    for applet in subprocess.run(["busybox", "--list"], capture_output=True, text=True,
                                 check=True).stdout.split():
        if not (root / "bin" / applet).exists():
            (root / "bin" / applet).symlink_to("busybox")
    for library in {lib for binary in binaries for lib in libraries(binary)}:
        install(root, library)
    shutil.copytree(PLUGINS, root / PLUGINS.lstrip("/"))
    shutil.copytree(PYTHON, root / "usr/lib/python3.11", symlinks=True, ignore=shutil.ignore_patterns(
        "__pycache__", "test", "idlelib", "lib2to3", "ensurepip", "config-*", "dist-packages"))
    shutil.copytree(TESTS.parent / "packaging", root / "packaging")
    shutil.copytree(TESTS, root / "tests", ignore=shutil.ignore_patterns("fuzz"))
    shutil.copytree(build / "test/programs", root / "under-test/test/programs",
                    ignore=shutil.ignore_patterns("CMakeFiles", "*.cmake"))
    for name, text in (("init", INIT), ("second", SECOND.format(command=command, modules=" ".join(MODULES),
                                                          above_tests=TESTS.parent, build=build,
                                                          above_build=build.parent))):
        (root / name).write_text(text)
        (root / name).chmod(0o755)


def pack(root, target):
    """An initramfs; the second, busybox's, sh needs no library to come up."""
    with open(target, "wb") as out:
        names = subprocess.run(["find", "."], cwd=root, capture_output=True, check=True)
        cpio = subprocess.Popen(["cpio", "-o", "-H", "newc", "--quiet"], cwd=root,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        gzip = subprocess.Popen(["gzip", "-1"], stdin=cpio.stdout, stdout=out)
        cpio.stdin.write(names.stdout)
        cpio.stdin.close()
        if cpio.wait() or gzip.wait():
            sys.exit("kernels: can't pack the initramfs")


def boot(kernel, initramfs, seconds, hidden):
    """The console's text; it also goes to our stdout as it comes, but for what stands between the two
    lines `hidden`."""
    command = ["timeout", "--foreground", str(seconds), "qemu-system-x86_64", "-accel", "tcg",
               "-cpu", CPU, "-smp", "2", "-m", "3072", "-nographic", "-no-reboot", "-nic", "none",
               "-kernel", kernel, "-initrd", initramfs,
               "-append", "console=ttyS0 loglevel=3 panic=-1 cgroup_no_v1=all"]
    text, silent = "", False
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT) as qemu:
        signal.signal(signal.SIGTERM, lambda *_: (qemu.terminate(), sys.exit(1)))
        for line in qemu.stdout:
            line = line.decode(errors="replace").replace("\r", "")
            text += line
            if line.strip() in hidden:
                silent = not silent
            elif not silent:
                print(line, end="", flush=True)
    return text


def run(kernel, work, seconds, fill, hidden=()):
    """Boots a machine whose initramfs fill(root) makes below `work`. Its exit code and console."""
    root = work / "root"
    fill(root)
    pack(root, work / "initramfs")
    shutil.rmtree(root)
    text = boot(kernel, work / "initramfs", seconds, hidden)
    code = re.search(r"^EXIT CODE (\d+)", text, re.M)
    if not code:
        print("kernels: the machine ended before the tests did")
    return int(code[1]) if code else 1, text
