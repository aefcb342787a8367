"""Rot: bytes that change on a disk. The user never gets them, and where a copy is left it is
repaired.
"""

import errno
import json
import mmap
import os
import struct

from case import OWN_POOLS, case
from harness import expect, expect_equal, wait_until
from syscalls import fsync_path, read_direct
from targets import MIB, directory_disk, dynamicfs, image_disk

GROUP = "corruption"
BLOCK_BYTES = 4096
DISK_BYTES = 256 * MIB


def data_pieces(volume):
    """(offset, bytes) of what is in the volume file, at most a MiB at a time and from a block on.

    Holes are skipped, since a volume may be far larger than what is in it.
    """
    fd = os.open(volume, os.O_RDONLY)
    try:
        at, size_bytes = 0, os.fstat(fd).st_size
        while at < size_bytes:
            try:
                at = os.lseek(fd, at, os.SEEK_DATA) // BLOCK_BYTES * BLOCK_BYTES
            except OSError:  # ENXIO: nothing but a hole up to the end.
                break
            piece = os.pread(fd, MIB, at)
            yield at, piece
            at += len(piece)
    finally:
        os.close(fd)


def find_blocks(volume, blocks):
    """{block number: offsets in the volume file} of blocks whose content lies there whole.

    Data lies in aligned blocks of the volume.
    """
    numbers = {block: number for number, block in enumerate(blocks)}
    found = {}
    for at, piece in data_pieces(volume):
        for start in range(0, len(piece), BLOCK_BYTES):
            number = numbers.get(piece[start : start + BLOCK_BYTES])
            if number is not None:
                found.setdefault(number, []).append(at + start)
    return found


def flip_bytes(volume, offsets, rng, count=5):
    """Changes `count` random bytes in each block, so that each surely differs from before."""
    with open(volume, "r+b") as file:
        for offset in offsets:
            for _ in range(count):
                file.seek(offset + rng.randrange(BLOCK_BYTES))
                byte = file.read(1)[0]
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([byte ^ rng.randrange(1, 256)]))
        os.fsync(file.fileno())


class Victim:
    """A file of recognisable random blocks in a pool of two copies, written and unmounted."""

    def __init__(self, bench, pool, name, block_count):
        self.path = pool.root / name
        self.blocks = [bench.random_bytes(BLOCK_BYTES) for _ in range(block_count)]
        self.path.write_bytes(b"".join(self.blocks))
        fsync_path(self.path)

    @property
    def content(self):
        return b"".join(self.blocks)


def two_disks(bench):
    return [
        image_disk(bench.scratch / "disk-a.img", DISK_BYTES),
        directory_disk(bench.scratch / "disk-b"),
    ]


def expect_all_copies(disks, victim):
    """Offsets by disk; every block must lie on every disk, or this test would spoil nothing."""
    places = [find_blocks(disk.volume, victim.blocks) for disk in disks]
    for disk, found in zip(disks, places):
        expect_equal(
            len(found), len(victim.blocks), f"blocks of {victim.path.name} found on {disk}"
        )
    return places


def last_metadata_block(volume, uuid):
    """Where the last block of entries of the newest metadata run lies in the volume (man/format.md)."""
    found = []
    for at, piece in data_pieces(volume):
        for start in range(0, len(piece) - 64, BLOCK_BYTES):
            head = piece[start : start + 64]
            if head[24:40] != uuid or head[44] != 1:
                continue
            run, index = struct.unpack_from("<QQ", head, 8)
            found.append((run, index, at + start))
    expect(found, f"no metadata run in {volume}")
    return max(found)


@case(
    GROUP,
    "metadata that is spoiled on every disk is told by name, and the rest goes on",
    where=OWN_POOLS,
)
def spoiled_metadata(bench):
    disks = two_disks(bench)
    pool = bench.pool("pool", disks, "replica:2").mount()
    for number in range(3000):
        (pool.root / f"file-{number}").write_bytes(b"")
    uuid = pool.status()[1]["pool"]["uuid"]
    pool.umount()
    for disk in disks:
        _, index, at = last_metadata_block(disk.volume, bytes.fromhex(uuid.replace("-", "")))
        expect(index > 2, f"one of {index + 1} blocks of metadata on {disk} says nothing of files alone")
        flip_bytes(disk.volume, [at], bench.rng)
    pool.mount()
    unreadable = 0
    for number in range(3000):
        try:
            os.stat(pool.root / f"file-{number}")
        except OSError as error:
            expect_equal(error.errno, errno.EIO, f"stat of file-{number}")
            unreadable += 1
    expect(0 < unreadable < 3000, f"{unreadable} of 3000 files cannot be looked up")
    code, status = pool.status()
    expect_equal((code, status["pool"]["state"]), (2, "damaged"), "exit code and state")
    expect(any("Metadata is damaged" in text for text in status["problems"]), f"{status['problems']}")
    # New files are kept, over a checkpoint that cannot write the old metadata anew.
    (pool.root / "new").write_bytes(b"new")
    pool.remount()
    expect_equal((pool.root / "new").read_bytes(), b"new", "a file written beside spoiled metadata")
    pool.umount()


@case(
    GROUP,
    "a spoiled copy is served from the other one, counted and rewritten",
    where=OWN_POOLS,
    timeout_s=200,
)
def one_copy(bench):
    disks = two_disks(bench)
    pool = bench.pool("pool", disks, "replica:2").mount()
    # Whichever disk a read prefers: of each file the copy on another disk is spoiled.
    victims = [Victim(bench, pool, f"spoiled-on-{disk.path.name}", 512) for disk in disks]
    pool.umount()
    for disk, victim in zip(disks, victims):
        places = expect_all_copies(disks, victim)[disks.index(disk)]
        flip_bytes(disk.volume, [at for offsets in places.values() for at in offsets], bench.rng)
        expect_equal(
            len(find_blocks(disk.volume, victim.blocks)), 0, f"whole blocks left on {disk}"
        )
    pool.mount()
    before = pool.metrics()
    for victim in victims:
        expect(victim.path.read_bytes() == victim.content, f"{victim.path.name} is wrong")
        expect(
            read_direct(victim.path) == victim.content,
            f"{victim.path.name} is wrong, read around the cache",
        )

    def counters():
        after = pool.metrics()
        return [after[name] - before[name] for name in ("checksum_errors", "repairs")]

    wait_until(lambda: min(counters()) > 0, 20, "checksum_errors and repairs move")
    hints = pool.status()[1]["hints"]
    expect(any("wrong data" in hint for hint in hints), f"no hint about wrong data: {hints}")
    shown = dynamicfs("status", pool.root, "--metrics", check=True).out
    expect("(! healthy 0)" in shown and hints[0] in shown, f"the hint is not beside the figures: {shown}")
    repairs = counters()[1]
    pool.umount()
    restored = sum(
        len(find_blocks(disk.volume, victim.blocks)) for disk, victim in zip(disks, victims)
    )
    expect(
        restored > 0,
        f"{repairs} repairs are counted, but no spoiled block is whole again on its disk",
    )
    pool.mount()
    for victim in victims:
        expect(
            victim.path.read_bytes() == victim.content,
            f"{victim.path.name} is wrong after the repair",
        )
    pool.umount()


@case(
    GROUP,
    "where both copies are spoiled the reader gets EIO, and all other blocks",
    where=OWN_POOLS,
    timeout_s=200,
)
def both_copies(bench):
    disks = two_disks(bench)
    pool = bench.pool("pool", disks, "replica:2").mount()
    victim = Victim(bench, pool, "victim", 64)
    whole = Victim(bench, pool, "whole", 64)
    pool.umount()
    lost = sorted(bench.rng.sample(range(64), 7))
    for disk, places in zip(disks, expect_all_copies(disks, victim)):
        flip_bytes(disk.volume, [at for number in lost for at in places[number]], bench.rng)
    pool.mount()
    fd = os.open(victim.path, os.O_RDONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, BLOCK_BYTES)
    for number, block in enumerate(victim.blocks):
        try:
            os.preadv(fd, [buffer], number * BLOCK_BYTES)
        except OSError as error:
            expect_equal(errno.errorcode[error.errno], "EIO", f"error of block {number}")
            expect(number in lost, f"EIO for block {number}, which has two good copies")
        else:
            expect(number not in lost, f"block {number} has no good copy and was read all the same")
            expect(buffer[:] == block, f"block {number} is wrong")
    os.close(fd)
    expect(whole.path.read_bytes() == whole.content, "another file is wrong")
    # What is lost can be written anew.
    with open(victim.path, "r+b") as file:
        for number in lost:
            file.seek(number * BLOCK_BYTES)
            file.write(victim.blocks[number])
    pool.remount()
    expect(
        victim.path.read_bytes() == victim.content,
        "the file is wrong after its lost blocks were written anew",
    )
    pool.umount()


@case(
    GROUP,
    "random damage to one whole disk: every file still reads right",
    where=OWN_POOLS,
    timeout_s=200,
)
def sprayed_disk(bench):
    disks = two_disks(bench)
    pool = bench.pool("pool", disks, "replica:2").mount()
    victims = [
        Victim(bench, pool, f"file-{number}", bench.rng.randrange(1, 200)) for number in range(40)
    ]
    pool.umount()
    # Anything may be hit: data, journal, tables, superblocks.
    size_blocks = disks[0].volume.stat().st_size // BLOCK_BYTES
    flip_bytes(
        disks[0].volume,
        [bench.rng.randrange(size_blocks) * BLOCK_BYTES for _ in range(size_blocks // 20)],
        bench.rng,
    )
    pool.mount(disk=disks[1])
    for victim in victims:
        expect(victim.path.read_bytes() == victim.content, f"{victim.path.name} is wrong")
    pool.umount()


@case(
    GROUP,
    "a scrub finds what nobody reads, mends it, and says what cannot be mended",
    where=OWN_POOLS,
    timeout_s=200,
)
def scrubbed(bench):
    disks = two_disks(bench)
    pool = bench.pool("pool", disks, "replica:2").mount()
    mended = Victim(bench, pool, "mended", 512)
    lost = Victim(bench, pool, "lost", 64)
    pool.umount()
    places = expect_all_copies(disks, mended)
    flip_bytes(disks[1].volume, [at for some in places[1].values() for at in some], bench.rng)

    def scrub(word, *more):
        return dynamicfs("scrub", word, pool.root, *more)

    def finished():
        return json.loads(scrub("status", "--json").out)["state"] == "finished"

    pool.mount()
    idle = scrub("status")
    expect_equal(idle.code, 0, "exit code before")
    expect(idle.out.startswith("scrub: none since the pool was mounted, nor before; the next begins"), f"says {idle.out}")
    for word in ("pause", "resume", "cancel"):
        refused = scrub(word)
        expect_equal(refused.code, 3, f"exit code of {word} without a scrub")
        expect("no scrub is" in refused.err, f"{word} without a scrub says {refused.err}")
    expect_equal(scrub("start").code, 0, "exit code of start")
    wait_until(finished, 60, "the scrub finishes")
    shown = scrub("status")
    expect_equal(shown.code, 0, "exit code when all was mended")
    found = json.loads(scrub("status", "--json").out)
    expect_equal(found["bad_copies"], 512, "bad copies found")
    expect_equal(found["repaired_copies"], 512, "copies repaired")
    expect_equal(found["unrecoverable_blocks"], 0, "blocks lost")
    expect_equal(found["checked_bytes"], found["total_bytes"], "checked of all there is")
    expect(pool.metrics()["scrub_repaired_copies"] == 512, "the metric knows as much")
    pool.umount()
    expect_equal(
        len(find_blocks(disks[1].volume, mended.blocks)), 512, "blocks whole again on the disk"
    )

    for disk, found in zip(disks, expect_all_copies(disks, lost)):
        flip_bytes(disk.volume, found[7], bench.rng)
    pool.mount()
    expect_equal(scrub("start").code, 0, "exit code of start")
    wait_until(finished, 60, "the scrub finishes")
    expect_equal(scrub("status").code, 2, "exit code with a lost block")
    _, status = pool.status()
    expect("lost" in str(status["damaged_files"]), f"named: {status['damaged_files']}")
    pool.umount()
    expect_equal(scrub("status").code, 15, "exit code without a mount")
