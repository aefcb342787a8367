"""Bytes of files through the mount: holes, sizes, offsets, and files that have no name any more."""

import errno
import mmap
import os
import subprocess
import sys

from case import OWN_POOLS, case
from cases_names import SURVIVAL, check_survival, expect_error
from harness import command, die_with_parent, expect, expect_equal, wait_until
from syscalls import (
    FALLOC_KEEP_SIZE,
    aligned,
    fallocate,
    fsync_path,
    punch_hole,
    read_direct,
    zero_range,
)
from targets import MIB, dynamicfs, image_disk

GROUP = "data"
KIB = 1024
TIB = 1 << 40


class Model:
    """A file and, beside it in memory, what it must hold; every change is made to both."""

    def __init__(self, path):
        self.path = path
        self.wanted = bytearray()
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)

    def write(self, offset, data):
        os.pwrite(self.fd, data, offset)
        self._grow(offset + len(data))
        self.wanted[offset : offset + len(data)] = data

    def truncate(self, size):
        os.ftruncate(self.fd, size)
        del self.wanted[size:]
        self._grow(size)

    def punch(self, offset, length):
        punch_hole(self.fd, offset, length)
        self._clear(offset, min(offset + length, len(self.wanted)))

    def zero(self, offset, length):
        zero_range(self.fd, offset, length)
        self._grow(offset + length)
        self._clear(offset, offset + length)

    def allocate(self, offset, length):
        fallocate(self.fd, 0, offset, length)
        self._grow(offset + length)

    def _grow(self, size):
        self.wanted.extend(bytes(max(0, size - len(self.wanted))))

    def _clear(self, start, end):
        if end > start:
            self.wanted[start:end] = bytes(end - start)

    def check(self, what):
        """Compares through the page cache and, after fsync, around it."""
        expect_equal(os.fstat(self.fd).st_size, len(self.wanted), f"size after {what}")
        self._compare(os.pread(self.fd, len(self.wanted) + 1, 0), f"after {what}")
        os.fsync(self.fd)
        self._compare(read_direct(self.path), f"on disk after {what}")

    def _compare(self, actual, what):
        if actual != self.wanted:
            pairs = zip(actual, self.wanted)
            at = next(
                (index for index, (one, two) in enumerate(pairs) if one != two),
                min(len(actual), len(self.wanted)),
            )
            expect(
                False,
                f"{what}: first wrong byte at {at} of {len(self.wanted)}, read {len(actual)} bytes",
            )


@case(GROUP, "writes of any size at any offset read back")
def odd_writes(bench):
    file = Model(bench.dir / "file")
    for length in (1, 511, 512, 513, 4095, 4096, 4097, 65_537, MIB - 1, MIB, MIB + 1, 3 * MIB + 7):
        file.write(bench.rng.randrange(2 * MIB), bench.random_bytes(length))
    file.check("writes of odd sizes")
    for _ in range(300):
        file.write(
            bench.rng.randrange(len(file.wanted)),
            bench.random_bytes(bench.rng.choice((1, 100, 4096, 10_000))),
        )
    file.check("small overwrites")


@case(GROUP, "truncate both ways: what was cut off never comes back")
def truncation(bench):
    file = Model(bench.dir / "file")
    file.write(0, bench.random_bytes(300_000))
    for size in (299_999, 100_001, 200_000, 4096, 4097, 70_000, 1, 0, 50_000):
        file.truncate(size)
        file.check(f"truncate to {size}")
        file.write(0, bench.random_bytes(min(size, 5000)))
    path = bench.write("replaced", bench.random_bytes(100_000))
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
    expect_equal(os.stat(path).st_size, 0, "size after O_TRUNC")
    os.truncate(path, 4096)
    expect_equal(path.read_bytes(), bytes(4096), "content after O_TRUNC and growing")
    with open(path, "r+b") as file, open(path, "wb"):  # Truncated while another handle is open.
        expect_equal(os.fstat(file.fileno()).st_size, 0, "size through the older handle")


@case(GROUP, "punch hole, zero range and allocation change exactly their range")
def ranges(bench):
    file = Model(bench.dir / "file")
    file.write(0, bench.random_bytes(2 * MIB + 1234))
    for offset, length in (
        (0, 4096),
        (5000, 100),
        (8192, 8192),
        (10_001, 70_000),
        (MIB - 1, 2),
        (2 * MIB, 5000),
    ):
        file.punch(offset, length)
        file.check(f"punch of {length} at {offset}")
        file.write(offset + 1, b"fresh")
        file.zero(offset + 200_000, length)
        file.check(f"zero range of {length} at {offset + 200_000}")
    file.allocate(2 * MIB, MIB)
    file.check("allocation past the end")
    size = len(file.wanted)
    fallocate(file.fd, FALLOC_KEEP_SIZE, size, 8 * MIB)
    file.check("allocation that keeps the size")
    file.punch(size - 10, 9 * MIB)
    file.check("punch across the end")


@case(GROUP, "sparse files take no space, and SEEK_DATA and SEEK_HOLE find what is there")
def sparse(bench):
    path = bench.dir / "sparse"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    os.ftruncate(fd, 64 * MIB)
    expect_error(errno.ENXIO, os.lseek, fd, 0, os.SEEK_DATA)
    os.pwrite(fd, bench.random_bytes(64 * KIB), 16 * MIB)
    os.pwrite(fd, bench.random_bytes(64 * KIB), 32 * MIB)
    os.fsync(fd)
    expect_equal(os.lseek(fd, 0, os.SEEK_DATA), 16 * MIB, "first data")
    expect_equal(os.lseek(fd, 16 * MIB, os.SEEK_HOLE), 16 * MIB + 64 * KIB, "hole behind it")
    expect_equal(os.lseek(fd, 17 * MIB, os.SEEK_DATA), 32 * MIB, "next data")
    expect_equal(os.lseek(fd, 40 * MIB, os.SEEK_HOLE), 40 * MIB, "inside a hole")
    expect_error(errno.ENXIO, os.lseek, fd, 64 * MIB, os.SEEK_DATA)
    used_bytes = os.fstat(fd).st_blocks * 512
    expect(128 * KIB <= used_bytes <= 4 * MIB, f"{used_bytes} bytes are used for 128 KiB of data")
    os.pwrite(fd, b"end", 64 * MIB - 3)
    punch_hole(fd, 16 * MIB, 64 * KIB)
    os.fsync(fd)
    expect_equal(os.lseek(fd, 0, os.SEEK_DATA), 32 * MIB, "first data after the punch")
    expect_equal(os.pread(fd, 8, 16 * MIB), bytes(8), "punched bytes")
    os.close(fd)


@case(GROUP, "several processes look for holes in one file, and nobody waits for ever")
def seeks_together(bench):
    path = bench.dir / "sought"
    path.write_bytes(b"content")
    os.truncate(path, 64 * MIB)
    work = (
        "import os, sys, time\n"
        "fd = os.open(sys.argv[1], os.O_RDWR)\n"
        "end = time.monotonic() + float(sys.argv[2])\n"
        "while time.monotonic() < end:\n"
        "    os.pwrite(fd, b'dirty', 8 << 20)\n"
        "    os.lseek(fd, 0, os.SEEK_HOLE)\n"
        "    os.lseek(fd, 16 << 20, os.SEEK_HOLE)\n"
    )
    duration_s = 2 if bench.quick else 20
    seekers = [
        subprocess.Popen([sys.executable, "-c", work, path, str(duration_s)], preexec_fn=die_with_parent)
        for _ in range(4)
    ]
    try:
        for seeker in seekers:
            expect_equal(seeker.wait(duration_s + 30), 0, "exit code of a seeker")
    finally:
        for seeker in seekers:
            seeker.kill()
    fd = os.open(path, os.O_RDONLY)
    expect_equal(os.lseek(fd, 9 * MIB, os.SEEK_HOLE), 9 * MIB, "a hole")
    os.close(fd)


@case(GROUP, "SEEK_DATA and SEEK_HOLE know what is written and not written back yet")
def dirty_is_data(bench):
    fd = os.open(bench.dir / "dirty", os.O_RDWR | os.O_CREAT, 0o644)
    os.ftruncate(fd, 64 * MIB)
    os.pwrite(fd, bench.random_bytes(3 * KIB), 16 * MIB)
    expect_equal(os.lseek(fd, 0, os.SEEK_DATA), 16 * MIB, "a buffered write")
    expect_equal(os.lseek(fd, 16 * MIB, os.SEEK_HOLE), 16 * MIB + 4 * KIB, "the hole behind it")
    with mmap.mmap(fd, 64 * MIB) as memory:
        memory[32 * MIB : 33 * MIB] = bench.random_bytes(MIB)
        expect_equal(os.lseek(fd, 17 * MIB, os.SEEK_DATA), 32 * MIB, "what is in mapped memory")
        memory[33 * MIB : 34 * MIB] = bench.random_bytes(MIB)
        expect_equal(os.lseek(fd, 32 * MIB, os.SEEK_HOLE), 34 * MIB, "the hole behind that")
    os.pwrite(fd, b"grown", 80 * MIB)
    expect_equal(os.lseek(fd, 70 * MIB, os.SEEK_DATA), 80 * MIB, "behind the old end")
    expect_equal(os.lseek(fd, 80 * MIB, os.SEEK_HOLE), 80 * MIB + 5, "the new end")
    expect_error(errno.ENXIO, os.lseek, fd, 80 * MIB + 5, os.SEEK_DATA)
    os.close(fd)


@case(GROUP, "offsets beyond one tebibyte hold data, and the space between costs nothing")
def far_offsets(bench):
    path = bench.dir / "far"
    # ext4 ends files at 16 TiB; one offset below and, elsewhere, one above.
    offsets = [0, TIB - 3, TIB + 12_345, 3 * TIB] + (
        [] if bench.tree.kind == "dir" else [100 * TIB]
    )
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    for number, offset in enumerate(offsets):
        os.pwrite(fd, b"data-%d" % number, offset)
    os.fsync(fd)
    for number, offset in enumerate(offsets):
        expect_equal(os.pread(fd, 6, offset), b"data-%d" % number, f"data at {offset}")
    expect_equal(os.fstat(fd).st_size, offsets[-1] + 6, "size")
    expect(os.fstat(fd).st_blocks * 512 < 4 * MIB, "a sparse file is charged for its holes")
    data_at = os.lseek(fd, TIB + MIB, os.SEEK_DATA)
    expect(3 * TIB - MIB < data_at <= 3 * TIB, f"SEEK_DATA found {data_at}")
    os.ftruncate(fd, TIB + 12_345 + 6)
    expect_equal(os.pread(fd, 100, TIB + 12_345), b"data-2", "the end after truncating")
    os.close(fd)


@case(
    GROUP, "a file without a name stays whole until its last close, and then its space comes back"
)
def unlinked_but_open(bench):
    free_before = _free_bytes(bench.tree.root)
    path = bench.write("file", bench.random_bytes(32 * MIB))
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    path.unlink()
    expect_error(errno.ENOENT, os.stat, path)
    os.pwrite(fd, b"written after unlink", 5 * MIB)
    os.ftruncate(fd, 40 * MIB)
    expect_equal(os.fstat(fd).st_nlink, 0, "link count")
    expect_equal(os.pread(fd, 20, 5 * MIB), b"written after unlink", "content without a name")
    os.fsync(fd)
    os.close(fd)
    fsync_path(bench.dir)
    other = bench.write("replaced", b"old")
    fd = os.open(other, os.O_RDONLY)
    os.rename(bench.write("new", b"new"), other)
    expect_equal(os.pread(fd, 10, 0), b"old", "a replaced file that is still open")
    os.close(fd)
    if bench.tree.kind != "dir":  # Elsewhere the disk is not ours alone.
        wait_until(
            lambda: free_before - _free_bytes(bench.tree.root) < 8 * MIB,
            20,
            "the return of the space",
        )


def _free_bytes(root):
    info = os.statvfs(root)
    return info.f_bfree * info.f_frsize


@case(GROUP, "statvfs tells the truth about what can be written and what was freed")
def statvfs_truth(bench):
    before = os.statvfs(bench.tree.root)
    expect(
        before.f_bavail <= before.f_bfree <= before.f_blocks,
        "available <= free <= total does not hold",
    )
    expect(before.f_namemax == 255, f"longest name is {before.f_namemax}")
    expect(before.f_files == 0 or before.f_ffree > 0, "no inodes are free")
    if bench.tree.kind == "dir":
        return
    path = bench.write("file", bench.random_bytes(64 * MIB))
    fsync_path(path)
    used = _used_since(before, bench)
    expect(60 * MIB <= used <= 96 * MIB, f"64 MiB of data took {used / MIB:.0f} MiB of free space")
    path.unlink()
    fsync_path(bench.dir)
    wait_until(
        lambda: _used_since(before, bench) < 8 * MIB,
        20,
        "the return of the space of a deleted file",
    )


def _used_since(before, bench):
    return before.f_bfree * before.f_frsize - _free_bytes(bench.tree.root)


def _bytes_to_disks(pool):
    counted = pool.metrics()
    return sum(value for key, value in counted.items() if key.endswith("_device_written_bytes"))


@case(
    GROUP,
    "cp of a file that a pool has no room for twice: no data is written, and both change apart",
    where=OWN_POOLS,
    timeout_s=240,
)
def clones(bench):
    size = (256 if bench.quick else 2048) * MIB
    disks = [image_disk(bench.scratch / "disk.img", size * 3 // 2)]
    pool = bench.pool("pool", disks, "single").mount()
    source, copy = pool.root / "source", pool.root / "copy"
    piece = bytearray(bench.random_bytes(MIB))
    with open(source, "wb", buffering=0) as file:
        for number in range(size // MIB):
            piece[:8] = number.to_bytes(8, "little")
            file.write(piece)
        file.write(b"and not a whole block")
        os.fsync(file.fileno())
    before = pool.metrics()
    written = _bytes_to_disks(pool)
    command("cp", "--reflink=auto", source, copy, timeout_s=60)
    fsync_path(copy)
    after = pool.metrics()
    expect_equal(after["data_bytes_written"], before["data_bytes_written"], "data written by cp")
    # What is written is the record: a checksum for each block, in two logs at most, and checkpoints.
    written = _bytes_to_disks(pool) - written
    expect(written < size // 50, f"{written / MIB:.1f} MiB were written for a copy of {size / MIB:.0f}")
    expect_equal(after["saved_blocks"], size // 4096 + 1, "blocks saved")
    expect_equal(os.stat(copy).st_blocks, os.stat(source).st_blocks, "blocks of the copy")
    command("cmp", source, copy, timeout_s=100)

    def change(path, letter):
        with open(path, "r+b", buffering=0) as file:
            file.seek(5 * MIB + 77)
            file.write(letter * 300_000)
            os.fsync(file.fileno())

    def check(path, letter):
        with open(path, "rb") as file:
            for number in range(0, size // MIB, 16):
                file.seek(number * MIB)
                expect_equal(int.from_bytes(file.read(8), "little"), number, f"a piece of {path.name}")
            file.seek(5 * MIB + 76)
            found = file.read(300_002)
            expect_equal(found[1:-1], letter * 300_000, f"what was written to {path.name}")
            expect(found[:1] != letter and found[-1:] != letter, f"{path.name} beside the change")
            file.seek(size)
            expect_equal(file.read(), b"and not a whole block", f"the end of {path.name}")

    change(source, b"S")
    change(copy, b"C")
    for restart in (lambda: None, pool.kill, pool.umount):
        restart()
        if restart.__name__ != "<lambda>":
            pool.mount()
        check(source, b"S")
        check(copy, b"C")
    source.unlink()
    check(copy, b"C")
    pool.umount()
    outcome = dynamicfs("check", "--data", disks[0].path, timeout_s=100)
    expect("Nothing is wrong" in outcome.out, f"check says: {outcome}")
    pool.mount()
    expect_equal(pool.metrics()["saved_blocks"], 0, "blocks saved by one file")


@case(GROUP, "direct and buffered access of one file see each other")
def direct_and_buffered(bench):
    path = bench.dir / "file"
    buffered = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    direct = os.open(path, os.O_RDWR | os.O_DIRECT)
    wanted = bytearray(bench.random_bytes(MIB))
    os.pwrite(buffered, wanted, 0)
    expect_equal(read_direct(path) == wanted, True, "direct read of dirty pages is right")
    for number in range(64):
        at = bench.rng.randrange(MIB // 4096) * 4096
        piece = bench.random_bytes(4096 * bench.rng.randint(1, 8))[: MIB - at]
        os.pwrite(direct if number % 2 else buffered, aligned(piece), at)
        wanted[at : at + len(piece)] = piece
        expect(os.pread(buffered, len(piece), at) == piece, f"buffered read at {at} is wrong")
    expect(read_direct(path) == wanted, "direct read at the end is wrong")
    os.close(direct)
    os.close(buffered)


@case(GROUP, "a write that the page cache does not hold keeps the time that the kernel gave it")
def times_of_direct_writes(bench):
    # The second write falls into the tick of the kernel's clock that fsync has sent already: the
    # kernel has nothing new to tell, and what the daemon then stamps itself would come out at the
    # remount below. Half of such writes are late enough in the tick to show it.
    for number in range(32):
        fd = os.open(bench.dir / f"file-{number}", os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o644)
        for _ in range(2):
            os.pwrite(fd, aligned(b"x" * 4096), 0)
            os.fsync(fd)
        os.pwrite(fd, aligned(b"y" * 4096), 0)
        os.close(fd)


@case(
    GROUP, "O_APPEND writes at the end whatever the position, O_SYNC and O_DSYNC writes read back"
)
def open_flags(bench):
    path = bench.write("log", b"start")
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.lseek(fd, 0, os.SEEK_SET)
    os.write(fd, b", end")
    os.close(fd)
    expect_equal(path.read_bytes(), b"start, end", "appended file")
    for flag in (os.O_SYNC, os.O_DSYNC):
        fd = os.open(path, os.O_RDWR | flag)
        os.pwrite(fd, b"synced", 0)
        os.close(fd)
        expect_equal(path.read_bytes()[:6], b"synced", "synchronously written bytes")
    fd = os.open(path, os.O_RDONLY)
    expect_error(errno.EBADF, os.write, fd, b"x")
    os.close(fd)


case(GROUP, SURVIVAL, closes_group=True, timeout_s=900)(check_survival)
