"""Flags of files (chattr) that are set while programs have the files open: what is refused, who is told, and what a
reader sees.
"""

import errno
import mmap
import os

from case import OWN_POOLS, case
from cases_names import expect_error
from harness import command, expect, expect_equal, wait_until
from syscalls import AsynchronousWrite, read_direct
from targets import MIB, StallingDisk

GROUP = "flags"
# The kernel is told of refused pages once a second.
PATIENCE_S = 20


def expect_refused(fd):
    """What was written is not kept, and fsync says so: EPERM by Linux 6.18, EIO is allowed to it."""
    expect_error((errno.EPERM, errno.EIO), os.fsync, fd)


@case(GROUP, "a write under way when its file becomes immutable is refused", OWN_POOLS, ["root", "bindfs", "chattr"])
def under_way(bench):
    slow = StallingDisk(bench.workspace, bench.scratch / "disk-slow")
    pool = bench.pool("pool", [slow], "single").mount()
    path = pool.root / "file"
    kept = bench.random_bytes(MIB)
    path.write_bytes(kept)
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    os.fsync(fd)
    slow.stall()
    write = AsynchronousWrite(fd, bytes(64 * 1024), 64 * 1024)
    try:
        # The daemon has it; the disk does not.
        wait_until(lambda: pool.status()[1]["disks"][0]["in_flight"] > 0, 20, "a write at the disk")
        command("chattr", "+i", path)
        expect(not write.is_done(), "the write did not wait for the disk")
    finally:
        slow.go_on()
    expect_equal(write.result(), -errno.EPERM, "the write's result")
    expect(read_direct(path) == kept, "what was refused is there")
    command("chattr", "-i", path)
    os.close(fd)
    pool.umount()
    slow.end()


@case(GROUP, "readers of an immutable file see what is kept, not what somebody who has it open was refused", needs=["root", "chattr"])
def readers(bench):
    kept = bench.random_bytes(2 * MIB + 100)
    path = bench.write("file", kept)
    fd = os.open(path, os.O_RDWR)
    mapping = mmap.mmap(fd, len(kept))
    command("chattr", "+i", path)
    try:
        os.pwrite(fd, b"refused" * 1000, 4090)
        mapping[MIB : MIB + 5] = b"wrong"
        expect_refused(fd)
        wait_until(lambda: path.read_bytes() == kept, PATIENCE_S, "a reader that sees what is kept")
        expect(mapping[:] == kept, "a mapping shows something else")
        # The same again: it is not told only once.
        os.pwrite(fd, b"again", 5000)
        expect_refused(fd)
        wait_until(lambda: path.read_bytes() == kept, PATIENCE_S, "the same once more")
    finally:
        command("chattr", "-i", path)
    mapping[0:4] = b"fine"
    mapping.flush()
    mapping.close()
    os.close(fd)
    expect(path.read_bytes() == b"fine" + kept[4:], "what is allowed again is not there")


@case(GROUP, "an append-only file takes what is appended by those who have it open, and nothing else", needs=["root", "chattr"])
def appended(bench):
    kept = bench.random_bytes(10_000)
    path = bench.write("file", kept)
    fd = os.open(path, os.O_RDWR)
    command("chattr", "+a", path)
    try:
        os.pwrite(fd, b"overwritten", 5000)
        expect_refused(fd)
        os.pwrite(fd, b"appended", len(kept))
        os.fsync(fd)
        wait_until(lambda: path.read_bytes() == kept + b"appended", PATIENCE_S, "a reader that sees what is kept")
        expect(read_direct(path) == kept + b"appended", "something else is kept")
    finally:
        command("chattr", "-a", path)
    os.close(fd)
