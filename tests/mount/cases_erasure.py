"""Pools under erasure coding: what they hold, what of them may be lost, and what comes back."""

import json
import os

from case import OWN_POOLS, case
from harness import expect, expect_equal, wait_until
from snapshot import expect_same, expect_sound, snapshot
from syscalls import fsync_path
from targets import EXIT_DEGRADED, EXIT_HEALTHY, MIB, dynamicfs, image_disk

GROUP = "erasure"
DISK_BYTES = 256 * MIB


def four_and_two(bench, name="pool"):
    """A mounted ec:4+2 pool over six images."""
    disks = [image_disk(bench.scratch / f"{name}-{i}.img", DISK_BYTES) for i in range(6)]
    return bench.pool(name, disks, "ec:4+2").mount()


def fill(root, rng, large=3, small=60):
    """Large files, small ones and one with holes, all durable."""
    root.mkdir()
    for number in range(large):
        (root / f"large-{number}").write_bytes(rng.randbytes(9 * MIB + number * 1000))
    for number in range(small):
        (root / f"small-{number}").write_bytes(rng.randbytes(1 + rng.randrange(60_000)))
    with open(root / "sparse", "wb") as file:
        for at in range(0, 40 * MIB, 4 * MIB):
            file.seek(at)
            file.write(rng.randbytes(300_000))
    for path in root.iterdir():
        fsync_path(path)
    fsync_path(root)


def scrub(pool):
    """Runs a scrub to its end; returns what it says."""
    started = dynamicfs("scrub", "start", pool.root)
    expect_equal(started.code, 0, "exit code of scrub start")

    def report():
        return json.loads(dynamicfs("scrub", "status", pool.root, "--json").out)

    wait_until(lambda: report()["state"] == "finished", 120, "the scrub finishes")
    return report()


@case(
    GROUP,
    "with any two of six disks away everything is read and written, and all is well when they are back",
    where=OWN_POOLS,
)
def two_away(bench):
    pool = four_and_two(bench)
    fill(pool.root / "before", bench.rng)
    before = snapshot(pool.root)
    pool.umount()
    for number, lost in enumerate(((0, 1), (2, 5), (3, 4))):
        away = [pool.disks[i] for i in lost]
        for disk in away:
            disk.take_away()
        pool.mount()
        expect_equal(pool.status()[0], EXIT_DEGRADED, "exit code of status with disks away")
        expect_same(before, snapshot(pool.root), f"without disks {lost}")
        expect(pool.metrics()["blocks_reconstructed"] > 0, "nothing was reconstructed")
        (pool.root / f"written-{number}").write_bytes(bench.rng.randbytes(5 * MIB))
        before = snapshot(pool.root)
        pool.umount()
        for disk in away:
            disk.bring_back()
        pool.mount()
        expect_same(before, snapshot(pool.root), f"after disks {lost} are back")
        found = scrub(pool)
        expect_equal(found["unrecoverable_blocks"], 0, "blocks lost")
        expect_equal(pool.status()[0], EXIT_HEALTHY, "exit code of status after the scrub")
        expect_sound(pool.root)
        pool.umount()
    for disk in pool.disks[:3]:
        disk.take_away()
    refused = pool.try_mount()
    expect(refused.code not in (0, 1), f"mounted without three disks: {refused}")
    expect("3 of 6 disks are missing" in refused.err, f"the refusal says {refused.err}")
    for disk in pool.disks[:3]:
        disk.bring_back()
    pool.mount()
    expect_same(before, snapshot(pool.root), "after a refused mount")
    pool.umount()


@case(
    GROUP, "killed with a disk away, what was synced is there with it and without another", where=OWN_POOLS
)
def killed_degraded(bench):
    pool = four_and_two(bench)
    fill(pool.root / "before", bench.rng, large=1, small=20)
    pool.umount()
    pool.disks[4].take_away()
    pool.mount()
    expect_equal(pool.status()[0], EXIT_DEGRADED, "exit code of status with a disk away")
    fill(pool.root / "meanwhile", bench.rng, large=2, small=20)
    before = snapshot(pool.root)
    (pool.root / "not synced").write_bytes(bench.rng.randbytes(3 * MIB))
    pool.kill()
    pool.disks[4].bring_back()
    pool.mount()
    (pool.root / "not synced").unlink(missing_ok=True)
    expect_same(before, snapshot(pool.root), "after the kill, with the stale disk")
    expect_equal(scrub(pool)["unrecoverable_blocks"], 0, "blocks lost")
    pool.umount()
    for number in (0, 2):
        pool.disks[number].take_away()
    pool.mount()
    expect_same(before, snapshot(pool.root), "without two others")
    pool.umount()


@case(
    GROUP, "df tells what large files will need, and the disks are used to the end", where=OWN_POOLS
)
def space(bench):
    pool = four_and_two(bench)

    def free():
        at = os.statvfs(pool.root)
        return at.f_bavail * at.f_frsize

    promised = free()
    whole = sum(disk.volume.stat().st_size for disk in pool.disks)
    expect(
        0.55 * whole < promised < 4 / 6 * whole,
        f"{promised} bytes are free of {whole} on the disks under ec:4+2",
    )
    piece = bench.rng.randbytes(MIB)
    written = 0
    with open(pool.root / "large", "wb", buffering=0) as file:
        try:
            while True:
                written += file.write(piece)
                if written % (64 * MIB) == 0:
                    os.fsync(file.fileno())
        except OSError:
            pass
    expect(
        abs(written - promised) < promised // 12,
        f"{written} bytes were written where {promised} were free",
    )
    (pool.root / "large").unlink()
    # Write points keep a group each, and the checkpoint has grown.
    enough = promised - promised // 20
    wait_until(lambda: free() >= enough, 60, f"{enough} bytes are free again")
    pool.umount()


@case(GROUP, "what rots in data and parity is found by a scrub and mended", where=OWN_POOLS)
def rotten(bench):
    pool = four_and_two(bench)
    fill(pool.root / "before", bench.rng)
    before = snapshot(pool.root)
    pool.umount()
    for disk in pool.disks[1:3]:
        with open(disk.volume, "r+b") as volume:
            # Behind superblocks and journal.
            for at in range(16 * MIB, DISK_BYTES, 64 * 1024):
                volume.seek(at)
                volume.write(b"rotten")
    pool.mount()
    found = scrub(pool)
    expect(found["bad_copies"] > 100, f"bad copies found: {found['bad_copies']}")
    expect_equal(found["unrecoverable_blocks"], 0, "blocks lost")
    expect(pool.metrics()["parity_repairs"] > 0, "no parity was mended")
    expect_equal(scrub(pool)["bad_copies"], 0, "bad copies left")
    pool.umount()
    for number in (0, 5):
        pool.disks[number].take_away()
    pool.mount()
    expect_same(before, snapshot(pool.root), "without two other disks")
    pool.umount()
