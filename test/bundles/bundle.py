#!/usr/bin/env python3
"""bundle.py DIR [--stasis BINARY] [--program FILE ARG...]: lays a demo bundle out at DIR.

The rootfs is a static busybox. With --stasis the bundle's hooks call that binary, otherwise it has
none. With --program that file runs as the container's init instead of the demo's script.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess

DEMO = pathlib.Path(__file__).resolve().parent / "demo"


def load_config():
    return json.loads((DEMO / "config.json").read_text())


def lay_out(directory, stasis=None, program=None, args=(), change=lambda config: None):
    """Makes the bundle; `change` may alter its config before it is written."""
    bundle = pathlib.Path(directory)
    rootfs = bundle / "rootfs"
    for name in ("bin", "data", "dev", "etc", "proc", "sys", "tmp"):
        (rootfs / name).mkdir(parents=True, exist_ok=True)
    for name in ("hosts", "hostname", "resolv.conf"):
        (rootfs / "etc" / name).touch()
    busybox = shutil.which("busybox")
    shutil.copy(busybox, rootfs / "bin/busybox")
    for applet in subprocess.run([busybox, "--list"], capture_output=True, text=True,
                                 check=True).stdout.split():
        if applet != "busybox" and not (rootfs / "bin" / applet).exists():
            (rootfs / "bin" / applet).symlink_to("busybox")
    shutil.copy(DEMO / "demo.sh", rootfs)
    (bundle / "data").mkdir(exist_ok=True)
    (bundle / "data").chmod(0o777)  # programs with other uids write there
    shutil.copytree(DEMO / "etc", bundle / "etc", dirs_exist_ok=True)

    config = load_config()
    if stasis:
        for hooks in config["hooks"].values():
            for hook in hooks:
                hook["path"] = os.path.abspath(stasis)
    else:
        del config["hooks"]
    if program:
        shutil.copy(program, rootfs / pathlib.Path(program).name)
        config["process"]["args"] = ["/" + pathlib.Path(program).name, *args]
    change(config)
    (bundle / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory")
    parser.add_argument("--stasis")
    parser.add_argument("--program", nargs="+", default=[None])
    options = parser.parse_args()
    lay_out(options.directory, options.stasis, options.program[0], options.program[1:])


if __name__ == "__main__":
    main()
