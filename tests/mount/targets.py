"""The file systems a case can run on: a dynamicfs pool, and two that serve as its yardstick.

Every target has `root`, remount(), crash() and `is_ordered`. A plain directory and xfs on a loop
device show whether a failing case blames the pool or is wrong itself; xfs also knows how to crash.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from harness import Failure, command, expect, is_running, require, wait_until
from syscalls import shut_down

MIB = 1 << 20

# What the exit codes of the command mean, as dynamicfs(8) lists them.
EXIT_HEALTHY = 0
EXIT_DEGRADED = 1
EXIT_AT_RISK = 2
EXIT_FAILED = 3
EXIT_USAGE = 4
EXIT_NOT_A_DISK = 5
EXIT_ALREADY_IN_POOL = 6
EXIT_DISK_MISSING = 7
EXIT_TOO_FEW_DISKS = 8
EXIT_SPLIT_BRAIN = 9
EXIT_ALREADY_MOUNTED = 10
EXIT_BAD_MOUNTPOINT = 11
EXIT_NO_FUSE = 12
EXIT_NO_PERMISSION = 13
EXIT_NEWER_FORMAT = 14
EXIT_NOT_MOUNTED = 15
EXIT_MOUNT_HELD = 16


def binary():
    """The dynamicfs program under test, always an absolute path."""
    default = Path(__file__).resolve().parents[2] / "build" / "tools" / "dynamicfs"
    return os.path.abspath(os.environ.get("DYNAMICFS", default))


def dynamicfs(*arguments, check=False, timeout_s=60, **popen):
    """Runs the command under test. Most callers look at the exit code, so it is not checked here."""
    return command(binary(), *arguments, check=check, timeout_s=timeout_s, **popen)


def expect_refusal(outcome, code, *names):
    """The command ended with `code` and its message names every one of `names`."""
    expect(outcome.code == code, f"{outcome}; expected exit code {code}")
    for name in names:
        expect(str(name) in outcome.err, f"the message does not name {name}: {outcome}")


class Disk:
    """A disk as the command is told it (`path`), and the file that holds its bytes (`volume`)."""

    def __init__(self, path, volume):
        self.path = Path(path)
        self.volume = Path(volume)

    def __repr__(self):
        return str(self.path)

    def take_away(self):
        """Renames the disk, so that no path leads to it any more; bring_back() undoes it."""
        self.path.rename(self._hidden())

    def bring_back(self):
        self._hidden().rename(self.path)

    def _hidden(self):
        return self.path.with_name(self.path.name + ".taken-away")


def directory_disk(path):
    path.mkdir(parents=True)
    return Disk(path, path / "dynamicfs.volume")


class StallingDisk(Disk):
    """A directory behind a small FUSE file system of its own, whose daemon can be stopped: then
    nothing that was asked of the disk is answered, as by one that hangs. `behind` is where the
    files are, if that matters.
    """

    def __init__(self, workspace, path, behind=None):
        require("bindfs")
        self.behind = behind or path.with_name(path.name + ".behind")
        self.behind.mkdir(parents=True)
        path.mkdir()
        super().__init__(path, path / "dynamicfs.volume")
        self.process = subprocess.Popen(
            ["bindfs", "-f", self.behind, path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        workspace.note_process(self.process.pid, below=path.parent)
        wait_until(lambda: os.path.ismount(path), 30, f"bindfs on {path}")

    def stall(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def end(self):
        """After the pool that uses it is gone."""
        self.go_on()
        command("umount", self.path, timeout_s=30)
        self.process.wait(30)


def image_disk(path, size_bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.truncate(size_bytes)
    return Disk(path, path)


def loop_disk(image_path, size_bytes):
    """A block device: a loop device over an image file."""
    require("loop devices")
    image = image_disk(image_path, size_bytes)
    device = command("losetup", "--find", "--show", image.path).out.strip()
    return Disk(device, image.path)


class Pool:
    """A dynamicfs pool in a directory of the workspace: its disks, its mountpoint, its daemon."""

    kind = "dynamicfs"
    # Everything recovered is a prefix of what was handed over, so a request is whole or absent and
    # a file closed before it replaces another one is complete.
    is_ordered = True

    def __init__(self, workspace, directory, disks, redundancy=None, options=()):
        self.workspace = workspace
        self.directory = Path(directory)
        self.disks = disks
        self.redundancy = redundancy
        self.options = tuple(options)
        self.root = self.directory / "mnt"
        self.root.mkdir(parents=True, exist_ok=True)

    def create(self):
        words = ["--redundancy", self.redundancy] if self.redundancy else []
        created = dynamicfs("create", *words, *[disk.path for disk in self.disks], check=True)
        uuid = re.search(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", created.out)
        expect(uuid is not None, f"create does not say which pool it made: {created.out}")
        self.workspace.note_daemon_log(f"/var/log/dynamicfs/{uuid.group()}.log")
        return self

    def try_mount(self, disk=None, mountpoint=None, options=(), timeout_s=60, **popen):
        """Runs `dynamicfs mount` and returns its Outcome; on success the daemon is noted for the
        cleaning up.
        """
        options = self.options + tuple(options)
        words = ["-o", ",".join(options)] if options else []
        disk = disk or next(disk for disk in self.disks if disk.path.exists())
        outcome = dynamicfs(
            "mount", disk.path, mountpoint or self.root, *words, timeout_s=timeout_s, **popen
        )
        if outcome.code == 0:
            self.workspace.note_process(self.daemon_pid(mountpoint), below=self.directory)
        return outcome

    def mount(self, **how):
        outcome = self.try_mount(**how)
        expect(outcome.code == 0, f"the pool does not mount: {outcome}")
        return self

    def umount(self, timeout_s=120):
        return dynamicfs("umount", self.root, check=True, timeout_s=timeout_s)

    def remount(self):
        self.umount()
        self.mount()

    def status(self, mountpoint=None):
        """(exit code, the parsed object) of `dynamicfs status --json`."""
        outcome = dynamicfs("status", mountpoint or self.root, "--json")
        if outcome.code not in (EXIT_HEALTHY, EXIT_DEGRADED, EXIT_AT_RISK):
            raise Failure(f"status does not answer: {outcome}")
        try:
            return outcome.code, json.loads(outcome.out)
        except ValueError as error:
            raise Failure(f"status --json is no JSON ({error}): {outcome.out[:200]}") from error

    def metrics(self):
        return self.status()[1]["metrics"]

    def daemon_pid(self, mountpoint=None):
        """The daemon's process id, and only if that process is what we started."""
        pid = self.status(mountpoint)[1]["daemon"]["pid"]
        expect(is_running(pid), f"status names process {pid}, which does not run")
        return pid

    def kill(self):
        """SIGKILL to exactly this pool's daemon; returns when the process is gone."""
        pid = self.daemon_pid()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_running(pid), 30, f"the end of killed daemon {pid}", step_s=0.002)

    # A crash is the death of the daemon. The kernel's page cache under the volumes survives it, so
    # this tests order and recovery; missing flushes are found by the simulated disks.
    def crash_trigger(self):
        """Everything slow is done here; calling the result crashes the target at once."""
        pid = self.daemon_pid()

        def kill():
            expect(is_running(pid), "the daemon ended by itself before it was killed")
            os.kill(pid, signal.SIGKILL)

        return kill

    def recover(self):
        """Mounts again over the dead mount; the command itself replaces it."""
        self.mount()

    def describe(self):
        kinds = [f"{disk.path.name} {_size_text(disk)}" for disk in self.disks]
        return f"{self.redundancy or 'default redundancy'} on {', '.join(kinds)}"

    def close(self):
        """Ends the pool whatever state it is in, keeping its disks."""
        if os.path.ismount(self.root):
            dynamicfs("umount", self.root)
        self.workspace.release(self.directory)


def _size_text(disk):
    if disk.volume != disk.path:
        return "directory"
    if not disk.volume.exists():
        return "image"
    return f"{disk.volume.stat().st_size // MIB} MiB"


class XfsTarget:
    """xfs on a loop device, whose crash is the shutdown ioctl: the log in memory is thrown away."""

    kind = "xfs"
    is_ordered = False  # Overwriting in place, it promises less about data that nobody synced.

    def __init__(self, workspace, directory, size_bytes=1024 * MIB):
        require("xfs")
        self.workspace = workspace
        self.directory = Path(directory)
        self.root = self.directory / "mnt"
        self.root.mkdir(parents=True)
        # One device for the whole life: `mount -o loop` may take over a device that is just going
        # away.
        self._device = loop_disk(self.directory / "xfs.img", size_bytes).path
        command("mkfs.xfs", "-q", self._device)
        self._mount()

    def _mount(self):
        command("mount", self._device, self.root)
        self.root.chmod(0o755)

    def remount(self):
        command("umount", self.root)
        self._mount()

    def crash_trigger(self):
        return lambda: shut_down(self.root)

    def recover(self):
        deadline = time.monotonic() + 30
        while command("umount", self.root, check=False).code != 0:
            expect(time.monotonic() < deadline, "the shut down xfs stays busy")
            time.sleep(0.1)
        self._mount()

    def describe(self):
        return "xfs"

    def close(self):
        self.workspace.release(self.directory)


class DirectoryTarget:
    """A directory inside one that somebody else provides: it can neither be remounted nor crash."""

    kind = "dir"
    is_ordered = True

    def __init__(self, path):
        expect(os.path.isdir(path), f"{path} is no directory")
        self.root = Path(tempfile.mkdtemp(prefix="dynamicfs-mount-", dir=path))
        self.root.chmod(0o755)

    def remount(self):
        pass

    def close(self):
        shutil.rmtree(self.root)


def make_shared_tree(kind, workspace, name):
    """The tree that the cases of one group share. `kind` is pool, xfs or dir:PATH."""
    directory = workspace.directory(name)
    if kind.startswith("dir:"):
        return DirectoryTarget(kind[len("dir:") :])
    if kind == "xfs":
        return XfsTarget(workspace, directory)
    require("/dev/fuse")
    # Unequal sizes, two kinds of disk, and room for every group: about 1.5 GiB can be used.
    disks = [
        image_disk(directory / "disk-a.img", 1024 * MIB),
        image_disk(directory / "disk-b.img", 1536 * MIB),
        directory_disk(directory / "disk-c"),
    ]
    return Pool(workspace, directory, disks, "replica:2").create().mount()
