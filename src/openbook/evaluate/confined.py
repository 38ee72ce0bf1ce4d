"""The inside of the sandbox: confines its own process, then executes one program. Started by `sandbox`; imports the standard library alone.

Arguments: the program's file, an empty folder, a file descriptor that is told "passed", and the limits as JSON. In namespaces of its own
the program has no network, sees no other process, and finds every file system read-only but for the folder, which is a small one in
memory. Where the system allows no namespaces, Python's audit hooks refuse sockets, processes, and files outside the folder instead.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any

NEWNS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MS_NOSUID, MS_NODEV = 2, 4
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, ATTR_RDONLY = 442, -100, 0x8000, 1
SET_PDEATHSIG, SET_NO_NEW_PRIVS = 1, 38
FIRST_USER = 1_000_000
"""Plus the process's number: a user that has no other process, so that a limit on processes counts this sandbox alone."""
REFUSED = (
    "socket.",
    "os.fork",
    "os.forkpty",
    "os.exec",
    "os.posix_spawn",
    "os.system",
    "subprocess.",
    "ctypes.",
    "pty.",
    "os.kill",
)
WRITES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown", "shutil.")

LIBC = ctypes.CDLL(None, use_errno=True)


def called(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def mount(source: str, place: str, flags: int, options: str = "") -> None:
    called(LIBC.mount(source.encode(), place.encode(), source.encode(), ctypes.c_ulong(flags), options.encode()))


def separate(folder: str, limits: dict[str, int]) -> None:
    """Namespaces of this process's own; afterwards the next child is the first process of its own. Raises OSError where not allowed."""
    user = os.getuid()
    called(LIBC.unshare(NEWNS | NEWIPC | NEWPID | NEWNET | (NEWUSER if user else 0)))
    if user:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{os.getgid()} {os.getgid()} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    mount("none", "/", MS_REC | MS_PRIVATE)
    library = os.path.join(os.path.dirname(folder), "library")  # Python's may lie where only this process's user can read it
    os.mkdir(library)
    mount(os.path.dirname(os.__file__), library, MS_BIND)
    sys.path[:] = [library, os.path.join(library, "lib-dynload")]
    read_only = (ctypes.c_uint64 * 4)(ATTR_RDONLY, 0, 0, 0)
    called(LIBC.syscall(MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, read_only, ctypes.sizeof(read_only)))
    mount("tmpfs", folder, MS_NOSUID | MS_NODEV, f"size={limits['disk']},nr_inodes=256,mode=777")
    mount("tmpfs", "/proc", MS_NOSUID | MS_NODEV, "size=4096,nr_inodes=2,mode=555")


def refuse(folder: str) -> None:
    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(REFUSED) or (event.startswith(WRITES) and not _inside(folder, arguments[:1])):
            raise PermissionError(f"{event} is not allowed here")
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and not _inside(folder, (path,)):
                raise PermissionError(f"{path!r} is not to be written here")

    sys.addaudithook(hook)


def _inside(folder: str, paths: tuple[Any, ...]) -> bool:
    return all(isinstance(path, str) and os.path.realpath(path).startswith(folder + os.sep) for path in paths)


def limit(limits: dict[str, int]) -> None:
    for name, key in (("AS", "memory"), ("CPU", "cpu"), ("FSIZE", "file"), ("NOFILE", "files"), ("NPROC", "processes"), ("CORE", "core")):
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limits[key], limits[key]))


def execute(source: str, folder: str, told: int, limits: dict[str, int], separated: bool) -> None:
    LIBC.prctl(SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.chdir(folder)
    if separated and os.getuid() == 0:
        os.setgroups([])
        os.setgid(FIRST_USER + limits["user"])
        os.setuid(FIRST_USER + limits["user"])
        LIBC.prctl(SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # another user's process has forgotten it
    LIBC.prctl(SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    limit(limits)
    if not separated:
        refuse(folder)
    exec(compile(source, "program.py", "exec"), {"__name__": "__main__"})
    os.write(told, b"passed")  # a program that ends itself never comes here


def main(program: str, folder: str, told: str, given: str) -> None:
    limits = json.loads(given)
    with open(program, encoding="utf-8") as file:
        source = file.read()
    separated = bool(limits["separate"])
    limits["user"] = os.getpid()
    if separated:
        try:
            separate(folder, limits)
        except OSError:
            separated = False
    child = os.fork() if separated else 0
    if child:
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    os.write(int(told), b"apart " if separated else b"guarded ")
    execute(source, folder, int(told), limits, separated)


if __name__ == "__main__":
    main(*sys.argv[1:5])
