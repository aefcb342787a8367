"""Policies, moments at which a disk is lost, and kills of the daemon: a few of the combinations that the simulation
(tests/fs/matrix.hpp) tries by the thousand, on real images under a real mount.
"""

import json
import time

from case import OWN_POOLS, case
from harness import expect, expect_equal, wait_until
from snapshot import expect_same, expect_sound, snapshot
from syscalls import fsync_path
from targets import EXIT_HEALTHY, MIB, dynamicfs, image_disk

GROUP = "matrix"


def fill(root, rng, count=25):
    root.mkdir()
    for number in range(count):
        path = root / f"file-{number}"
        path.write_bytes(rng.randbytes(1 + rng.randrange(600_000)))
        fsync_path(path)
    fsync_path(root)


def overwrite(root, rng):
    path = root / f"file-{rng.randrange(25)}"
    with open(path, "r+b") as file:
        file.seek(rng.randrange(path.stat().st_size))
        file.write(rng.randbytes(1 + rng.randrange(200_000)))
    fsync_path(path)


def at_work(pool, moment, rng):
    """Begins what a disk is lost in the middle of."""
    if moment == "drain":
        dynamicfs("disk", "remove", pool.root, pool.disks[-1].path, check=True)
    elif moment == "re-encode":
        dynamicfs("policy", "set", "replica:3", pool.root / "files", check=True)
        dynamicfs("sync", pool.root, check=True)
    elif moment == "writing":
        for _ in range(4):
            overwrite(pool.root / "files", rng)
    time.sleep(rng.random() * 0.3)


def healthy(pool):
    told = json.loads(dynamicfs("disk", "status", pool.root, "--json").out)
    status = pool.status()
    return (
        told["state"] == "idle" and status[0] == EXIT_HEALTHY and not status[1]["reencoding"]["pending"]
    )


def live_and_die(bench, policy, disks, moment, tolerance):
    rng = bench.rng
    images = [image_disk(bench.scratch / f"d{i}.img", 160 * MIB) for i in range(disks)]
    pool = bench.pool("pool", images, policy).mount()
    fill(pool.root / "files", rng)
    at_work(pool, moment, rng)
    before = snapshot(pool.root)
    # It may have left by now, and be nobody's.
    pool.disks = images[:-1] if moment == "drain" else images
    # What was fsynced is there without as many disks as are tolerated, which go with the daemon.
    lost = rng.sample(pool.disks[1:], tolerance)
    pool.kill()
    for image in lost:
        image.take_away()
    pool.mount()
    expect_same(before, snapshot(pool.root), f"{policy}, {moment}, without {lost}")
    overwrite(pool.root / "files", rng)
    before = snapshot(pool.root)
    pool.kill()
    # They are back, and lack that.
    for image in lost:
        image.bring_back()
    pool.mount()
    expect_same(before, snapshot(pool.root), f"{policy}, {moment}, with stale disks")
    time.sleep(rng.random() * 0.5)
    pool.kill()
    pool.mount()
    wait_until(lambda: healthy(pool), 60, "everything is as it should be")
    expect_same(before, snapshot(pool.root), f"{policy}, {moment}, when everything is whole")
    left = {known["id"] for known in pool.status()[1]["disks"]}
    expect_equal(left, set(range(disks)) - ({disks - 1} if moment == "drain" else set()), "disks")
    pool.umount()
    pool.disks = [image for number, image in enumerate(images) if number in left]
    outcome = dynamicfs("check", "--data", pool.disks[0].path)
    expect(outcome.code == 0, f"check: {outcome}")
    # Others may go now.
    lost = rng.sample(pool.disks, tolerance)
    for image in lost:
        image.take_away()
    pool.mount()
    expect_same(before, snapshot(pool.root), f"{policy}, {moment}, without {lost} in the end")
    expect_sound(pool.root)
    pool.umount()


@case(GROUP, "replica:2: a disk is lost while files are written", where=OWN_POOLS, timeout_s=120)
def two_copies(bench):
    live_and_die(bench, "replica:2", 3, "writing", 1)


@case(GROUP, "replica:3: two disks are lost while another is emptied", where=OWN_POOLS, timeout_s=120)
def three_copies(bench):
    live_and_die(bench, "replica:3", 4, "drain", 2)


@case(GROUP, "ec:2+1: a disk is lost while everything is encoded anew", where=OWN_POOLS, timeout_s=120)
def parity(bench):
    live_and_die(bench, "ec:2+1", 4, "re-encode", 1)


@case(GROUP, "ec:4+2: two disks are lost while a third is emptied", where=OWN_POOLS, timeout_s=120)
def two_parities(bench):
    live_and_die(bench, "ec:4+2", 7, "drain", 2)
