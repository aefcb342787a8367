"""Errors of disks that reach programs: what write, fsync and close say when data cannot be kept.

Linux tells an error of writeback at the next fsync of every file that was open then, once each
(errseq), and at the close that finds it. The kernel remembers it, from the answers to its writes:
the daemon answers none before the disks have the data. A disk on a small tmpfs that somebody else
has filled says ENOSPC, whichever kind of disk it is; EIO is what a disk says whose host file system
was shut down.
"""

import errno
import mmap
import os
import random

from case import OWN_POOLS, case
from cases_disks import HostedDisk, disk_states
from harness import beside_each_other, command, expect, expect_equal
from syscalls import read_direct
from targets import MIB, directory_disk, dynamicfs, image_disk, loop_disk

GROUP = "faults"
HOST_BYTES = 80 * MIB
DISK_BYTES = 300 * MIB


def outcome(call, *arguments):
    """The name of the error that a system call ends with, or "ok"."""
    try:
        call(*arguments)
        return "ok"
    except OSError as error:
        return errno.errorcode[error.errno]


def open_again(path, flags=os.O_RDWR):
    return os.open(path, flags)


def write_out(fd, data):
    """All of it, or the error that ends it."""
    at = 0
    while at < len(data):
        at += os.pwrite(fd, data[at : at + MIB], at)


def write_direct(path, data):
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    try:
        with mmap.mmap(-1, MIB) as piece:
            for at in range(0, len(data), MIB):
                piece[:] = data[at : at + MIB]
                expect_equal(os.pwritev(fd, [piece], at), MIB, "bytes that a direct write took")
        os.fsync(fd)
    finally:
        os.close(fd)


class SmallHost:
    """A tmpfs that holds one disk, and what somebody else fills it with."""

    def __init__(self, bench, kind):
        self.path = bench.scratch / "host"
        self.path.mkdir()
        command("mount", "-t", "tmpfs", "-o", f"size={HOST_BYTES}", "tmpfs", self.path)
        self._filler = self.path / "filler"
        if kind == "an image":
            self.disk = image_disk(self.path / "disk.img", DISK_BYTES)
        elif kind == "a device":
            self.disk = loop_disk(self.path / "disk.img", DISK_BYTES)
        else:
            self.disk = directory_disk(self.path / "disk")

    def fill(self):
        with open(self._filler, "wb", buffering=0) as file:
            for piece in (MIB, 4096):
                while outcome(file.write, bytes(piece)) == "ok":
                    pass

    def mend(self):
        self._filler.unlink()


def expect_whole(pool):
    """To be called when it is not mounted."""
    checked = dynamicfs("check", "--data", pool.disks[0].path)
    expect_equal(checked.code, 0, f"exit code of check, which said {checked.text}")


def _no_room_at_fsync(kind):
    @case(
        GROUP,
        f"writeback that finds no room on {kind} is told once to each open file at fsync",
        where=OWN_POOLS,
        needs=["root"] + (["loop devices"] if kind == "a device" else []),
        timeout_s=120,
    )
    def run(bench):
        host = SmallHost(bench, kind)
        pool = bench.pool("pool", [host.disk]).mount()
        path, other_path = pool.root / "file", pool.root / "other"
        path.write_bytes(b"kept")
        other_path.write_bytes(b"other")
        files = [open_again(path), open_again(path), open_again(path, os.O_RDONLY)]
        other = open_again(other_path)
        for fd in (*files, other):
            os.fsync(fd)
        host.fill()
        data = bench.random_bytes(2 * MIB) * 10
        for number in range(2):  # A second failure is a second error.
            expect_equal(outcome(write_out, files[0], data), "ok", "a buffered write")
            told = [[outcome(os.fsync, fd) for _ in range(3)] for fd in files]
            expect_equal(
                told, [["ENOSPC", "ok", "ok"]] * 3, f"three fsyncs of each file, round {number}"
            )
            late = open_again(path)
            expect_equal(outcome(os.fsync, late), "ok", "fsync of who opened it when all was told")
            expect_equal(outcome(os.close, late), "ok", "its close")
            expect_equal(outcome(os.fsync, other), "ok", "fsync of another file")
        code, status = pool.status()
        expect(
            any(str(host.disk.path) in problem for problem in status["problems"]),
            f"the full disk is named (exit code {code}): {status['problems']}",
        )
        host.mend()
        expect_equal([outcome(os.fsync, fd) for fd in files], ["ok"] * 3, "fsync with room")
        data = bench.random_bytes(2 * MIB) * 4
        expect_equal(outcome(write_out, files[1], data), "ok", "a write when there is room")
        expect_equal([outcome(os.fsync, fd) for fd in files], ["ok"] * 3, "fsyncs of that")
        expect_equal([outcome(os.close, fd) for fd in (*files, other)], ["ok"] * 4, "closes")
        expect_equal(read_direct(path)[: len(data)], data, "what was written when there was room")
        pool.umount()
        expect_whole(pool)
        pool.mount()
        expect(path.read_bytes()[: len(data)] == data, "the file is wrong after a remount")
        expect_equal(other_path.read_bytes(), b"other", "the other file")
        pool.umount()

    return run


for _kind in ("an image", "a directory", "a device"):
    _no_room_at_fsync(_kind)


@case(
    GROUP,
    "a close tells of writeback that failed when no fsync has, and later closes are silent",
    where=OWN_POOLS,
    needs=["root"],
    timeout_s=120,
)
def told_at_close(bench):
    host = SmallHost(bench, "an image")
    pool = bench.pool("pool", [host.disk]).mount()
    path = pool.root / "file"
    path.write_bytes(b"kept")
    first, second, third = (open_again(path) for _ in range(3))
    os.fsync(first)
    host.fill()
    data = bench.random_bytes(2 * MIB) * 10
    expect_equal(outcome(write_out, first, data), "ok", "a buffered write")
    expect_equal(outcome(os.close, first), "ENOSPC", "the close behind it")
    # Nobody has asked these before.
    for fd in (second, third):
        told = [outcome(os.fsync, fd) for _ in range(2)]
        expect_equal(told, ["ENOSPC", "ok"], "fsyncs of another file")
    expect_equal([outcome(os.close, fd) for fd in (second, third)], ["ok"] * 2, "their closes")
    host.mend()
    fd = open_again(path)
    data = bench.random_bytes(MIB)
    expect_equal(outcome(write_out, fd, data), "ok", "a write when there is room")
    expect_equal(outcome(os.close, fd), "ok", "its close")
    pool.remount()
    expect_equal(path.read_bytes()[:MIB], data, "what it wrote")
    pool.umount()
    expect_whole(pool)


@case(
    GROUP,
    "a write that waits for the disks is told itself that there is no room, and fsync is silent",
    where=OWN_POOLS,
    needs=["root"],
    timeout_s=120,
)
def told_at_write(bench):
    host = SmallHost(bench, "an image")
    pool = bench.pool("pool", [host.disk], options=["writeback=off"])
    data = bench.random_bytes(2 * MIB) * 10
    for options in ([], ["writeback=on"]):
        pool.mount(options=options)
        path = pool.root / "file"
        path.write_bytes(b"kept")
        fd = open_again(path)
        os.fsync(fd)
        host.fill()
        expect_equal(outcome(write_direct, path, data), "ENOSPC", "a direct write")
        expect_equal(outcome(os.fsync, fd), "ok", "the fsync behind it")
        if not options:
            expect_equal(outcome(write_out, fd, data), "ENOSPC", "a write without a cache")
            expect_equal(outcome(os.fsync, fd), "ok", "the fsync behind that")
        synchronous = open_again(path, os.O_RDWR | os.O_SYNC)
        expect_equal(outcome(write_out, synchronous, data), "ENOSPC", "a write with O_SYNC")
        for one in (fd, synchronous):
            outcome(os.fsync, one)
            expect_equal(outcome(os.close, one), "ok", "close")
        host.mend()
        expect_equal(outcome(write_direct, path, data[: 4 * MIB]), "ok", "a direct write with room")
        expect(read_direct(path)[: 4 * MIB] == data[: 4 * MIB], "what it wrote is wrong")
        path.unlink()
        pool.umount()
        expect_whole(pool)


@case(
    GROUP,
    "EIO without another copy: each open file is told, no more is taken, what was synced stays",
    where=OWN_POOLS,
    needs=["xfs"],
    timeout_s=200,
)
def lost_for_good(bench):
    hosted = HostedDisk(bench.scratch, "victim", "device")
    pool = bench.pool("pool", [hosted.disk]).mount()
    path = pool.root / "file"
    kept = bench.random_bytes(3 * MIB)
    path.write_bytes(kept)
    files = [open_again(path) for _ in range(3)]
    for fd in files:
        os.fsync(fd)
    hosted.pull()
    expect_equal(outcome(write_out, files[0], bytes(8 * MIB)), "ok", "a buffered write")
    # EROFS when the daemon has given the disk up before.
    told = [outcome(os.fsync, fd) for fd in files[:2]]
    expect(set(told) <= {"EIO", "EROFS"}, f"fsyncs say {told}")
    # The kernel takes more, so whoever asks is told again.
    outcome(write_out, files[1], b"more")
    told = [outcome(os.fsync, fd) for fd in files[1:]]
    expect(set(told) <= {"EIO", "EROFS"}, f"fsyncs of later data say {told}")
    new = outcome((pool.root / "new").write_bytes, b"x")
    expect_equal(new, "EROFS", "a new file")
    expect_equal(disk_states(pool)[str(hosted.disk.path)], "failed", "state of the disk")
    for fd in files:
        outcome(os.close, fd)
    dynamicfs("umount", pool.root)
    hosted.put_back()
    pool.mount()
    content = path.read_bytes()
    expect(len(content) >= len(kept), f"of {len(kept)} synced bytes {len(content)} are left")
    old = kept[: len(content)]
    for at in range(0, len(kept), 4096):
        block = content[at : at + 4096]
        expect(block in (old[at : at + 4096], bytes(4096)), f"bytes at {at} are neither old nor new")
    fd = open_again(path)
    expect_equal(outcome(write_out, fd, kept), "ok", "a write to the disk that is back")
    expect_equal([outcome(os.fsync, fd), outcome(os.close, fd)], ["ok"] * 2, "fsync and close")
    pool.remount()
    expect_equal(path.read_bytes()[: len(kept)], kept, "what was written then")
    pool.umount()
    expect_whole(pool)


@case(
    GROUP,
    "a full pool says so at a direct write, an fsync, a close; removing works, nothing is torn",
    where=OWN_POOLS,
    timeout_s=200,
)
def full_pool(bench):
    disks = [image_disk(bench.scratch / f"disk-{name}.img", 128 * MIB) for name in "ab"]
    pool = bench.pool("pool", disks, "replica:2").mount()
    data = bench.random_bytes(4 * MIB)
    good = []
    for number in range(100):
        path = pool.root / f"file-{number}"
        path.touch()
        if outcome(write_direct, path, data) != "ok":
            break
        good.append(path)
    expect(10 < len(good) < 100, f"{len(good)} files of 4 MiB found room")
    expect_equal(outcome(write_direct, path, data), "ENOSPC", "a direct write into a full pool")
    by_fsync, by_close = (os.open(pool.root / name, os.O_RDWR | os.O_CREAT) for name in ("f", "c"))
    for fd in (by_fsync, by_close):
        outcome(write_out, fd, data)  # the kernel may ask for the room, or not
    expect_equal(outcome(os.fsync, by_fsync), "ENOSPC", "fsync in a full pool")
    expect_equal(outcome(os.fsync, by_fsync), "ok", "the next fsync")
    expect_equal(outcome(os.close, by_close), "ENOSPC", "close in a full pool")
    for path in good:
        expect(read_direct(path) == data, f"{path} is wrong in the full pool")
    for path in good[::2]:
        path.unlink()
    # It asks for the errors of the whole file system, which nobody has been told of.
    expect("No space left" in dynamicfs("sync", pool.root).err, "sync does not tell what failed")
    dynamicfs("sync", pool.root, check=True)
    expect_equal(outcome(write_out, by_fsync, data), "ok", "a write when there is room again")
    expect_equal(outcome(os.fsync, by_fsync), "ok", "its fsync")
    os.close(by_fsync)
    pool.umount()
    expect_whole(pool)
    pool.mount()
    for path in [*good[1::2], pool.root / "f"]:
        expect(path.read_bytes() == data, f"{path} is wrong after a remount")
    pool.umount()


@case(
    GROUP,
    "after a kill status and the log say what recovery did; after an unmount there is nothing",
    where=OWN_POOLS,
    timeout_s=60,
)
def told_after_recovery(bench):
    disks = [image_disk(bench.scratch / f"disk-{name}.img", 128 * MIB) for name in "ab"]
    pool = bench.pool("pool", disks, "replica:2").mount()
    for number in range(20):
        with open(pool.root / f"file-{number}", "wb") as file:
            file.write(b"content")
            file.flush()
            os.fsync(file.fileno())
    pool.kill()
    pool.mount()
    _, status = pool.status()
    told = status["recovery"]
    # A name and its data, at least, of each.
    expect(told["records_replayed"] >= 40, f"recovery says {told}")
    expect_equal(told["torn_tail"], False, "torn_tail")
    expect(0 <= told["took_ms"] < 60_000, f"recovery says {told}")
    log = open(f"/var/log/dynamicfs/{status['pool']['uuid']}.log", encoding="utf-8").read()
    line = f", {told['records_replayed']} records in {int(told['took_ms'])} ms"
    expect(line in log, f"the log does not say '{line}': {log[-2000:]}")
    for number in range(20):
        expect_equal((pool.root / f"file-{number}").read_bytes(), b"content", f"file-{number}")
    pool.remount()
    expect_equal(pool.status()[1]["recovery"]["records_replayed"], 0, "records after an unmount")
    pool.umount()
    expect_whole(pool)


@case(
    GROUP,
    "msync tells of pages that found no room, once, and of none when there is room again",
    where=OWN_POOLS,
    needs=["root"],
    timeout_s=120,
)
def told_at_msync(bench):
    host = SmallHost(bench, "an image")
    pool = bench.pool("pool", [host.disk]).mount()
    path = pool.root / "file"
    size_bytes = 16 * MIB
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, size_bytes)
    os.fsync(fd)
    data = bench.random_bytes(MIB) * 16
    with mmap.mmap(fd, size_bytes) as memory:
        host.fill()
        memory[:] = data
        told = [outcome(memory.flush) for _ in range(2)]
        expect_equal(told, ["ENOSPC", "ok"], "two msyncs of what found no room")
        # The same bytes again, as somebody does who has made room.
        host.mend()
        memory[:] = data
        expect_equal(outcome(memory.flush), "ok", "msync with room")
    expect_equal([outcome(os.fsync, fd), outcome(os.close, fd)], ["ok"] * 2, "fsync and close")
    pool.remount()
    expect(path.read_bytes() == data, "the mapped file is wrong after a remount")
    pool.umount()
    expect_whole(pool)


def _fill_and_remove(root, worker, seed, failures_wanted):
    """Writes files until so many have failed, removing one of its own after each that did.

    Returns {name: length} of the files whose write and close said that they were kept, less the removed.
    """
    rng = random.Random(seed * 10 + worker)
    kept, failures, number = {}, 0, 0
    while failures < failures_wanted:
        number += 1
        name = f"{worker}-{number}"
        length_bytes = int((3 * MIB) ** rng.random())
        try:
            fd = os.open(root / name, os.O_WRONLY | os.O_CREAT)
        except OSError as error:
            expect_equal(error.errno, errno.ENOSPC, "what open says when there is no room")
            failures += 1
            continue
        data = random.Random(name).randbytes(length_bytes)
        told = [outcome(write_out, fd, data)]
        if rng.random() < 0.5:
            told.append(outcome(os.fsync, fd))
        told.append(outcome(os.close, fd))
        expect(set(told) <= {"ok", "ENOSPC"}, f"write, fsync and close of {name} said {told}")
        if set(told) == {"ok"}:
            kept[name] = length_bytes
        else:
            failures += 1
            os.unlink(root / name)  # in a full pool
            if kept and rng.random() < 0.5:
                gone = rng.choice(sorted(kept))
                del kept[gone]
                os.unlink(root / gone)
    return kept


@case(
    GROUP,
    "four writers in a full pool: each file whose close was silent is whole, and each can be removed",
    where=OWN_POOLS,
    timeout_s=300,
)
def nothing_lost_silently(bench):
    disks = [image_disk(bench.scratch / f"disk-{name}.img", 128 * MIB) for name in "ab"]
    pool = bench.pool("pool", disks, "replica:2").mount()
    failures_wanted = 10 if bench.quick else 200
    kept = {}
    for worker, found in enumerate(
        beside_each_other(
            [
                lambda worker=worker: _fill_and_remove(pool.root, worker, bench.seed, failures_wanted)
                for worker in range(4)
            ]
        )
    ):
        expect(found, f"writer {worker} had room for nothing")
        kept |= found

    def expect_kept(when):
        listed = set(os.listdir(pool.root))
        expect_equal(sorted(listed ^ kept.keys()), [], f"names that differ {when}")
        for name, length_bytes in kept.items():
            expect(
                (pool.root / name).read_bytes() == random.Random(name).randbytes(length_bytes),
                f"{name}, whose close was silent, is wrong {when}",
            )

    expect_kept("in the full pool")
    dynamicfs("sync", pool.root)  # It may tell of what the writers were told.
    pool.kill()
    pool.mount()
    expect_kept("after a kill")
    pool.remount()
    expect_kept("after a remount")
    for name in kept:
        (pool.root / name).unlink()
    fd = os.open(pool.root / "again", os.O_RDWR | os.O_CREAT)
    expect_equal(outcome(write_out, fd, bytes(8 * MIB)), "ok", "a write when all was removed")
    expect_equal([outcome(os.fsync, fd), outcome(os.close, fd)], ["ok"] * 2, "its fsync and close")
    pool.umount()
    expect_whole(pool)
