"""A container that starts from a checkpoint is confined as its config.json says, whatever the image was."""
import json
import pathlib

from harness import Container, Skip, expect, run, scenario
from in_place import from_checkpoint, no_watcher, restore_log, start

LIMITS = {"RLIMIT_NOFILE": ("Max open files", 200), "RLIMIT_CORE": ("Max core file size", 0),
          "RLIMIT_STACK": ("Max stack size", 4 << 20)}
DEFAULT_PROFILE = pathlib.Path("/usr/share/containers/seccomp.json")


def loose(config):
    config["process"].update(noNewPrivileges=False, rlimits=[])
    config["linux"].pop("seccomp", None)


def strict(config):
    """More than at the checkpoint; some of what is forbidden a restore does on the tasks' behalf."""
    config["process"]["noNewPrivileges"] = True
    config["process"]["rlimits"] = [{"type": name, "hard": hard, "soft": hard // 2}
                                    for name, (_, hard) in LIMITS.items()]
    config["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["mremap", "arch_prctl", "prlimit64", "recvmsg", "setsid", "seccomp", "ptrace"],
                      "action": "SCMP_ACT_ERRNO"}]}


def tasks_of(c):
    """/proc directories of all threads."""
    pids = json.loads(run("runc", "ps", "-f", "json", c.name).stdout)
    return [task for pid in pids for task in pathlib.Path(f"/proc/{pid}/task").iterdir()]


def confinement_of(task):
    """What /proc tells of a thread: its status by key, its limits by name."""
    status = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines() if ":\t" in line)
    limits = {line[:26].strip(): line[26:].split()[:2] for line in (task / "limits").read_text().splitlines()}
    return status, limits


def all_confined(c, filters, tasks):
    found = tasks_of(c)
    expect(len(found) >= tasks, f"only {len(found)} tasks")
    for task in found:
        status, limits = confinement_of(task)
        seen = {key: status[key] for key in ("NoNewPrivs", "Seccomp", "Seccomp_filters")}
        expect(seen == {"NoNewPrivs": "1", "Seccomp": "2", "Seccomp_filters": str(filters)}, f"{task}: {seen}")
        # The soft limit is the program's, which may have set it anywhere below the hard one.
        for name, hard in LIMITS.values():
            expect(limits[name] == [str(hard)] * 2, f"{task}: {name}: {limits[name]}")


@scenario
def in_place_stricter(env):
    """An image of a container without filters, limits and no_new_privs: all threads get the new one's."""
    env.only_stasis()
    for program, tasks in (("threads", 9), ("tree", 5)):
        with Container(env, program, change=loose) as c:
            c.start()
            for task in tasks_of(c):
                status, _ = confinement_of(task)
                expect((status["NoNewPrivs"], status["Seccomp"]) == ("0", "0"), f"{task} is confined: {status}")
            image = c.checkpoint()
            c.gone()
            from_checkpoint(c, image, strict)
            start(c)
            expect("Restored in place" in restore_log(c), restore_log(c))
            all_confined(c, 1, tasks)
            c.ask()
            # And once more: now the image has all of it, and nothing is doubled.
            image = c.checkpoint()
            c.gone()
            from_checkpoint(c, image)
            start(c)
            all_confined(c, 1, tasks)
            c.ask()
            no_watcher(c)
        c.gone()


def applies(rule, capabilities):
    """Whether a rule of containers-common's is one for such a container of this machine."""
    def matches(condition):
        return (any(a in ("amd64", "x86_64") for a in condition.get("arches") or []),
                any(c in capabilities for c in condition.get("caps") or []))
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    wanted = matches(includes)
    if includes.get("arches") and not wanted[0] or includes.get("caps") and not wanted[1]:
        return False
    return not any(matches(excludes))


def default_profile(config):
    """As podman makes config.json of it."""
    if not DEFAULT_PROFILE.exists():
        raise Skip(f"needs {DEFAULT_PROFILE}, which comes with podman")
    profile = json.loads(DEFAULT_PROFILE.read_text())
    capabilities = config["process"]["capabilities"]["bounding"]
    calls = []
    for rule in profile["syscalls"]:
        if applies(rule, capabilities):
            call = {"names": rule["names"], "action": rule["action"]}
            call.update({key: rule[key] for key in ("args", "errnoRet") if rule.get(key)})
            calls.append(call)
    config["linux"]["seccomp"] = {"defaultAction": profile["defaultAction"], "syscalls": calls,
                                  "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]}
    if profile.get("defaultErrnoRet"):
        config["linux"]["seccomp"]["defaultErrnoRet"] = profile["defaultErrnoRet"]
    expect(len(calls) > 5 and profile["defaultAction"] == "SCMP_ACT_ERRNO", "that's no allowlist")


@scenario(label="long")
def in_place_default_seccomp(env):
    """containers-common's own profile, which podman, CRI-O and Buildah give by default."""
    env.only_stasis()
    for program, tasks in (("threads", 9), ("tree", 5)):
        with Container(env, program, change=default_profile) as c:
            c.start()
            before = c.observe()
            image = c.checkpoint()
            c.gone()
            from_checkpoint(c, image)
            start(c)
            c.same_as(before)
            c.ask()
            found = [confinement_of(task)[0] for task in tasks_of(c)]
            expect(len(found) >= tasks and all(s["Seccomp"] == "2" for s in found), f"{len(found)} tasks: {found}")
            no_watcher(c)
        c.gone()
