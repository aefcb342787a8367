"""Disks, file systems on them, and the certainty that both are gone afterwards.

The disks are loop devices over files on a tmpfs of our own, so that a run measures file systems and
not somebody's drive. Everything is entered into a contextlib.ExitStack as it is made; see `session`.
"""
import contextlib
import glob
import mmap
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

MIB = 1 << 20
REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
BINARY = REPOSITORY / "build" / "tools" / "dynamicfs"


class Refused(Exception):
    """The file system does not do what was asked; a result, not an accident."""


def run(*command, check=True):
    """Runs a command; a failure carries what the command printed.

    It has a session of its own: a Ctrl-C is ours alone, and whatever interrupts the wait ends the
    command with all its children, so that none of them keeps a mount busy.
    """
    process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    try:
        out, err = process.communicate()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    if check and process.returncode != 0:
        words = " ".join(map(str, command))
        raise RuntimeError(f"{words}: exit {process.returncode}\n{out}{err}".rstrip())
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def need(*programs):
    """Stops with one sentence when a program is missing or we are not root."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        sys.exit(f"missing: {', '.join(missing)}. Run tools/install-dependencies --for-bench")
    if os.geteuid() != 0:
        sys.exit("loop devices and mounts need root: run this with sudo")


@contextlib.contextmanager
def session():
    """An ExitStack that is unwound on success, on failure, on Ctrl-C and on SIGTERM.

    While it is being unwound further signals are ignored: a second, impatient Ctrl-C must not leave
    half of the mounts behind.
    """
    def stop(number, _frame):
        raise KeyboardInterrupt(signal.Signals(number).name)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    former = {number: signal.signal(number, stop) for number in numbers}
    stack = contextlib.ExitStack()
    try:
        yield stack
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        stack.close()
        for number in numbers:
            signal.signal(number, former[number])


def is_mounted(path):
    escaped = str(path).replace("\\", "\\134").replace(" ", "\\040")
    with open("/proc/self/mountinfo") as mounts:
        return any(line.split()[4] == escaped for line in mounts)


def wait_for(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {seconds} s for {what}")
        time.sleep(0.01)


def unmount(path):
    """Unmounts a kernel file system. Somebody may look into a new mount for a moment: try again."""
    for attempt in range(20):
        done = run("umount", path, check=False)
        if done.returncode == 0 or not is_mounted(path):
            return
        time.sleep(0.1 * (attempt + 1))
    # Out of the tree at least, so that nothing can be removed through it; the kernel lets go of it when
    # its last user does.
    print(f"warning: {done.stderr.strip()}; it goes when its last user ends", file=sys.stderr)
    run("umount", "--lazy", path)


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as knob:
        knob.write("3\n")


def warm_memory(size_bytes):
    """Touches that much memory and gives it back.

    A virtual machine hands free memory back to its host, and the first use of it then costs a
    second or more per GiB, which would be charged to whoever is measured next.
    """
    block = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
    block.close()


class Testbed:
    """A directory for mount points, and `count` loop devices of `disk_mib` each."""

    def __init__(self, stack, count, disk_mib):
        self.stack = stack
        self.disk_mib = disk_mib
        self.notes = []
        self._warn_of_leftovers()
        self._check_memory(count * disk_mib)
        self.root = pathlib.Path(tempfile.mkdtemp(prefix=f"dynamicfs-bench-{os.getpid()}-"))
        stack.callback(shutil.rmtree, self.root, ignore_errors=True)
        store = self.root / "store"
        store.mkdir()
        run("mount", "-t", "tmpfs", "-o", f"size={count * disk_mib + 16}m,mode=700", "dynamicfs-bench", store)
        stack.callback(unmount, store)
        self.disks = [self._make_disk(store / f"disk{index}") for index in range(count)]

    def _warn_of_leftovers(self):
        for path in glob.glob(f"{tempfile.gettempdir()}/dynamicfs-bench-*-*"):
            pid = path.rsplit("-", 2)[1]
            if not os.path.exists(f"/proc/{pid}"):
                print(f"warning: {path} is left from a run that was killed; see losetup -a and "
                      "findmnt, it may still hold memory", file=sys.stderr)

    @staticmethod
    def _check_memory(needed_mib):
        with open("/proc/meminfo") as lines:
            available = next(int(l.split()[1]) for l in lines if l.startswith("MemAvailable")) >> 10
        if available < needed_mib + 2048:
            sys.exit(f"the disks need {needed_mib} MiB of memory and 2048 more to work in; "
                     f"{available} are available. Choose a smaller --disk-mib or --disks")

    def _make_disk(self, path):
        zeros = bytes(MIB)
        with open(path, "wb") as file:  # written, not truncated: the memory is touched here and now
            for _ in range(self.disk_mib):
                file.write(zeros)
        done = run("losetup", "--find", "--show", "--direct-io=on", path, check=False)
        if done.returncode != 0:
            self.notes.append(f"loop devices without direct I/O: {done.stderr.strip()}")
            done = run("losetup", "--find", "--show", path)
        disk = done.stdout.strip()
        self.stack.callback(self._detach, disk)
        # A discard punches a hole into the tmpfs file, and the next write pays for new memory.
        with contextlib.suppress(OSError):
            pathlib.Path(f"/sys/block/{os.path.basename(disk)}/queue/discard_max_bytes").write_text("0")
        return disk

    @staticmethod
    def _detach(disk):
        # With another program still looking at it the device goes when that one closes it.
        run("losetup", "--detach", disk, check=False)

    def make_directory(self, name):
        path = self.root / name
        path.mkdir(exist_ok=True)
        return path


class Target:
    """A file system on the disks: `fresh` makes it anew, `remount` makes it forget its caches."""

    name = "?"
    settings = ""

    def __init__(self, bed):
        self.bed = bed
        self.path = bed.make_directory(self.name.replace(":", "-"))
        bed.stack.callback(self.close)
        self.case = None

    def fresh(self, case):
        """Formats and mounts. `case` is what will be measured, for those who tune themselves to it."""
        self.case = case
        self.format()
        self.mount()

    def remount(self):
        self.unmount()
        drop_caches()
        self.mount()

    def close(self):
        """Unmounts whatever is mounted; may be called at any time and more than once."""
        if is_mounted(self.path):
            self.unmount()


class Xfs(Target):
    """The kernel's file system on the first of the disks: what the hardware can do."""

    name = "xfs"
    make = ("mkfs.xfs", "-q", "-f", "-K")

    @property
    def settings(self):
        return f"{' '.join(self.make)}, mount -o nodiscard, one disk"

    def format(self):
        run(*self.make, self.bed.disks[0])

    def mount(self):
        run("mount", "-t", self.name, "-o", "nodiscard", self.bed.disks[0], self.path)

    def unmount(self):
        unmount(self.path)


class Ext4(Xfs):
    name = "ext4"
    make = ("mkfs.ext4", "-q", "-F", "-E", "nodiscard")


class Btrfs(Xfs):
    name = "btrfs"
    make = ("mkfs.btrfs", "-q", "-f", "-K")


class Mergerfs(Target):
    """Debian's mergerfs over one xfs per disk, with the page cache that mmap, and so most programs, need."""

    name = "mergerfs"
    common = ("category.create=rand,minfreespace=16M,func.getattr=newest,security_capability=false,"
              "cache.attr=3600,cache.entry=3600,cache.negative_entry=3600,cache.readdir=true,"
              "cache.symlinks=true,cache.statfs=10,dropcacheonclose=false")
    files = "cache.files=auto-full"
    # Its two threads of a machine with two cores are what limits deep random I/O, and nothing else.
    by_case = {"rand": "threads=16"}

    @property
    def settings(self):
        return f"xfs on each disk, -o {self.common},{self.files}; for random I/O also {self.by_case['rand']}"

    def __init__(self, bed):
        super().__init__(bed)
        self.branches = [bed.make_directory(f"{self.name}-branch{index}") for index in range(len(bed.disks))]
        self.daemon = None

    def format(self):
        for disk in self.bed.disks:
            run(*Xfs.make, disk)

    def mount(self):
        for disk, branch in zip(self.bed.disks, self.branches):
            run("mount", "-t", "xfs", "-o", "nodiscard", disk, branch)
        options = ",".join(filter(None, (self.common, self.files, self.by_case.get(self.case))))
        # In the foreground, because umount does not wait for a daemon; its death is the sign.
        self.daemon = subprocess.Popen(
            ["mergerfs", "-f", "-o", options, ":".join(map(str, self.branches)), str(self.path)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            start_new_session=True)

        def usable():
            if self.daemon.poll() is not None:
                raise RuntimeError(f"mergerfs: {self.daemon.stderr.read().strip()}")
            return is_mounted(self.path)
        wait_for(usable, 10, "mergerfs")

    def unmount(self):
        if is_mounted(self.path):
            unmount(self.path)
        if self.daemon is not None:
            self.daemon.wait(timeout=60)
            self.daemon = None
        for branch in self.branches:
            if is_mounted(branch):
                unmount(branch)

    def close(self):
        self.unmount()


class MergerfsDirect(Mergerfs):
    """The same without the page cache: faster large writes, no shared mmap (so no build, no database)."""

    name = "mergerfs-direct"
    files = "cache.files=off"


class Dynamicfs(Target):
    """Ours: a redundancy, and behind a + each mount options, as in single+io_uring."""

    def __init__(self, bed, name="single", binary=BINARY):
        self.redundancy, *self.options = name.split("+")
        self.name = name
        options = f"-o {','.join(self.options)}" if self.options else "default mount options"
        self.settings = f"dynamicfs create --redundancy {self.redundancy}, {options}"
        self.binary = binary
        super().__init__(bed)

    def format(self):
        # `create` refuses a disk that is already in a pool, or that holds an xfs. Both begin in the first MiB.
        for disk in self.bed.disks:
            with open(disk, "r+b") as device:
                device.write(bytes(MIB))
                os.fsync(device.fileno())
        run(self.binary, "create", "--redundancy", self.redundancy, *self.bed.disks)

    def mount(self):
        words = ["-o", ",".join(self.options)] if self.options else []
        run(self.binary, "mount", self.bed.disks[0], self.path, *words)

    def unmount(self):
        run(self.binary, "umount", self.path)

    def close(self):
        if is_mounted(self.path):
            done = run(self.binary, "umount", self.path, check=False)
            if done.returncode != 0:  # a daemon that has died leaves its mount behind
                run("umount", "-l", self.path, check=False)


PEERS = {peer.name: peer for peer in (Xfs, Ext4, Btrfs, Mergerfs, MergerfsDirect)}


def make_target(name, bed, binary=BINARY):
    """One of PEERS, or ours with the redundancy and options of `name`."""
    return PEERS[name](bed) if name in PEERS else Dynamicfs(bed, name, binary)
