"""A process gives up what an answer does not need: files, processes, sockets, signals, memory.

For Linux 5.13 or later on x86-64 and Arm, without any privilege: resource limits, Landlock (which
files may be read), seccomp (which calls of the system are refused; all that write files are), and
no capabilities. None of it can be taken back.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import resource
import struct
from collections.abc import Iterable, Sequence

LIBC = ctypes.CDLL(None, use_errno=True)
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
READ_FILE, READ_DIR = 1 << 2, 1 << 3
# rights that each version of Landlock knows: all on files, links between folders, truncate, devices
RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 22, 38, 24

# by architecture: its number in a filter, and those of the calls that are refused (x86-64 and Arm;
# None if it has no such call)
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
REFUSED: dict[str, tuple[int | None, ...]] = {
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200),
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "kill": (62, 129), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
    "truncate": (76, 45), "ftruncate": (77, 46), "creat": (85, None), "mkdir": (83, None),
    "mkdirat": (258, 34), "rmdir": (84, None), "unlink": (87, None), "unlinkat": (263, 35),
    "symlink": (88, None), "symlinkat": (266, 36), "link": (86, None), "linkat": (265, 37),
    "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14),
    "lremovexattr": (198, 15), "fremovexattr": (199, 16), "setxattrat": (463, 463),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "shmat": (30, 196),
    "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180), "flock": (73, 32),
    "prlimit64": (302, 261), "setrlimit": (160, 164), "setpriority": (141, 140),
    "sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119), "sched_setattr": (314, 274),
    "setpgid": (109, 154), "setsid": (112, 157), "ioprio_set": (251, 30),
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fspick": (433, 433),
    "mount_setattr": (442, 442), "chroot": (161, 51), "pivot_root": (155, 41),
    "mknod": (133, None), "mknodat": (259, 33), "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265), "io_uring_setup": (425, 425), "perf_event_open": (298, 241),
    "bpf": (321, 280), "userfaultfd": (323, 282), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "inotify_init": (253, None), "inotify_init1": (294, 26),
    "fanotify_init": (300, 262), "syslog": (103, 116), "reboot": (169, 142),
    "kexec_load": (246, 104), "init_module": (175, 105), "finit_module": (313, 273),
    "swapon": (167, 224), "acct": (163, 89), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "adjtimex": (159, 171), "sethostname": (170, 161),
    "personality": (135, 92), "quotactl": (179, 60), "ioctl": (16, 29),
}  # fmt: skip
UNKNOWN: dict[str, tuple[int | None, ...]] = {
    "clone3": (435, 435),
    "openat2": (437, 437),
}  # libraries then take the older call
CLONE_THREAD, F_SETOWN, F_SETSIG, F_SETOWN_EX = 0x10000, 8, 10, 15
TO_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class CannotConfine(OSError):
    """The system does not offer what confinement needs."""


def landlock_version() -> int:
    """The version of Landlock that this system has; 0 for none."""
    return max(0, LIBC.syscall(LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1))


def can_filter() -> bool:
    """Whether a filter of system calls is known for this machine."""
    return platform.system() == "Linux" and platform.machine() in ARCHITECTURES


def limit(seconds: int, memory: int) -> None:
    """Limit processor time and address space from here on, and allow no file to grow."""
    for kind, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, _address_space() + memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        resource.setrlimit(kind, (value, value))


def _address_space() -> int:
    """The memory that this process has mapped, to a MiB: the least limit that allows one page more.

    A sandbox may have no /proc that would say it.
    """
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    low, high = 0, 2**46
    while high - low > 2**20:
        middle = (low + high) // 2
        resource.setrlimit(resource.RLIMIT_AS, (middle, most))
        try:
            mmap.mmap(-1, mmap.PAGESIZE).close()
            high = middle
        except (OSError, MemoryError):
            low = middle
    return high


def confine(readable: Sequence[str] | None, listable: Sequence[str] = ()) -> None:
    """Allow this process only to compute, and to read the files that are named.

    Args:
        readable: files and folders that may be read; None if something else confines files.
        listable: folders whose names may be listed, and whose files are not to be read.

    Raises:
        CannotConfine: if the system lacks what this needs.
    """
    _check(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    _drop_capabilities()
    if readable is not None:
        _restrict_files(readable, listable)
    _refuse_calls()


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise CannotConfine(number, f"{what}: {os.strerror(number)}")
    return result


def _drop_capabilities() -> None:
    """Those of root too, which could raise limits again."""
    for capability in range(64):
        LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # refused to a process without any
    number = {"x86_64": 126, "aarch64": 91}[platform.machine()]
    header = ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0))
    _check(LIBC.syscall(number, header, ctypes.create_string_buffer(24)), "capset")


def _restrict_files(readable: Iterable[str], listable: Iterable[str]) -> None:
    version = landlock_version()
    if not version:
        raise CannotConfine(errno.ENOSYS, "Landlock: not in this system")
    rights = RIGHTS[max(each for each in RIGHTS if each <= version)]
    ruleset = ctypes.create_string_buffer(struct.pack("Q", rights))
    handle = _check(LIBC.syscall(LANDLOCK_CREATE, ruleset, ctypes.c_size_t(8), 0), "Landlock")
    for paths, granted in ((readable, READ_FILE | READ_DIR), (listable, READ_DIR)):
        for path in paths:
            try:
                place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            allowed = granted if os.path.isdir(path) else granted & READ_FILE
            rule = ctypes.create_string_buffer(struct.pack("=Qi", allowed, place))
            _check(LIBC.syscall(LANDLOCK_ADD, handle, 1, rule, 0), f"Landlock: {path}")
            os.close(place)
    _check(LIBC.syscall(LANDLOCK_RESTRICT, handle, 0), "Landlock")
    os.close(handle)


def _refuse_calls() -> None:
    """Install the filter: a program that sees the architecture, the call and its arguments."""
    if not can_filter():
        raise CannotConfine(errno.ENOSYS, f"seccomp: no filter for {platform.machine()}")
    column = list(ARCHITECTURES).index(platform.machine())
    load, equal, at_least, has_bits, leave = 0x20, 0x15, 0x35, 0x45, 0x06
    kill, allow = 0x80000000, 0x7FFF0000
    refuse, unknown = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS

    def step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("HBBI", code, yes, no, value)

    def where(number: int | None, argument: int, test: int, value: int, yes: int) -> list[bytes]:
        """For one call: an answer if its argument passes a test, else the opposite."""
        no = allow if yes == refuse else refuse
        return [] if number is None else [
            step(equal, number, 0, 4), step(load, 16 + 8 * argument),
            step(test, value, 0, 1), step(leave, yes), step(leave, no),
        ]  # fmt: skip

    program = [
        step(load, 4),
        step(equal, ARCHITECTURES[platform.machine()], 1, 0),
        step(leave, kill),
        step(load, 0),
        step(at_least, 0x40000000, 0, 1),  # x32, another numbering of the same calls
        step(leave, kill),
    ]
    for table, answer in ((UNKNOWN, unknown), (REFUSED, refuse)):
        for number in (numbers[column] for numbers in table.values()):
            if number is not None:
                program += [step(equal, number, 0, 1), step(leave, answer)]
    program += where((56, 220)[column], 0, has_bits, CLONE_THREAD, allow)  # clone
    program += where(
        (234, 131)[column], 0, equal, os.getpid(), allow
    )  # tgkill, which abort() takes
    program += where((2, None)[column], 1, has_bits, TO_WRITE, refuse)  # open
    program += where((257, 56)[column], 2, has_bits, TO_WRITE, refuse)  # openat
    fcntl = (72, 25)[column]  # whom a file's owner signals
    program += [step(equal, fcntl, 0, 6), step(load, 16 + 8)]
    program += [step(equal, each, 3 - i, 0) for i, each in enumerate((F_SETOWN, F_SETSIG))]
    program += [step(equal, F_SETOWN_EX, 1, 0), step(leave, allow), step(leave, refuse)]
    program.append(step(leave, allow))
    code = ctypes.create_string_buffer(b"".join(program))
    held = ctypes.create_string_buffer(
        struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    )
    _check(LIBC.prctl(PR_SET_SECCOMP, 2, held, 0, 0), "seccomp")
