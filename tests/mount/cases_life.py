"""The life of a pool: disks are added, balanced, removed, lost and replaced while programs work on it."""

import json
import threading
import time

from case import OWN_POOLS, case
from harness import expect, expect_equal, wait_until
from snapshot import expect_same, expect_sound, snapshot
from syscalls import fsync_path
from targets import (
    EXIT_DEGRADED,
    EXIT_HEALTHY,
    MIB,
    directory_disk,
    dynamicfs,
    expect_refusal,
    image_disk,
)

GROUP = "life"
POLICY = "user.dynamicfs.policy"
EXIT_USAGE = 4
EXIT_ALREADY_IN_POOL = 6
EXIT_TOO_FEW_DISKS = 8


def disk(pool, word, *more, check=True):
    return dynamicfs("disk", word, pool.root, *more, check=check)


def copying(pool):
    return json.loads(disk(pool, "status", "--json", check=False).out)


def wait_for_rest(pool, timeout_s=100):
    wait_until(
        lambda: copying(pool)["state"] == "idle", timeout_s, "everything is where it should be"
    )


def numbers(pool):
    return [known["id"] for known in pool.status()[1]["disks"]]


def fill(root, rng, count=60, largest=800_000):
    root.mkdir()
    for number in range(count):
        path = root / f"file-{number}"
        path.write_bytes(rng.randbytes(1 + rng.randrange(largest)))
        fsync_path(path)
    fsync_path(root)


def contents(root):
    """snapshot(), but for the policies."""
    entries = snapshot(root)
    for entry in entries.values():
        entry["xattrs"].pop(POLICY, None)
    return entries


class Workload:
    """Writes files and reads them back all the time, until it is told to end."""

    def __init__(self, root, seed):
        root.mkdir()
        self.root = root
        self.seed = seed
        self.problem = None
        self.rounds = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        import random

        rng = random.Random(self.seed)
        known = {}
        try:
            while not self._ended.is_set():
                path = self.root / f"f{rng.randrange(20)}"
                known[path] = rng.randbytes(1 + rng.randrange(300_000))
                path.write_bytes(known[path])
                if rng.random() < 0.3:
                    fsync_path(path)
                other = rng.choice(list(known))
                expect(other.read_bytes() == known[other], f"{other} reads otherwise")
                self.rounds += 1
        except Exception as problem:
            self.problem = problem

    def end(self):
        self._ended.set()
        self._thread.join()
        if self.problem:
            raise self.problem
        expect(self.rounds > 5, f"the workload came round {self.rounds} times only")


@case(
    GROUP,
    "a pool grows, is balanced, gets another policy, gives up a disk, loses one and gets another, while files change",
    where=OWN_POOLS,
    timeout_s=300,
)
def growth(bench):
    images = [image_disk(bench.scratch / f"d{i}.img", 192 * MIB) for i in range(2)]
    pool = bench.pool("pool", images, "replica:2", options=("rebuild_after=0",)).mount()
    fill(pool.root / "photos", bench.rng)
    before = contents(pool.root / "photos")
    work = Workload(pool.root / "work", bench.seed)
    try:
        large = directory_disk(bench.scratch / "large")
        added = disk(pool, "add", large.path, "--size", "600M")
        expect("is disk 2 of the pool" in added.out, f"add says {added.out}")
        disk(pool, "rebalance")
        wait_for_rest(pool)
        expect(pool.metrics()["chunks_moved"] > 0, "nothing was moved")
        expect_same(before, contents(pool.root / "photos"), "when the pool was balanced")
        dynamicfs("policy", "set", "ec:2+1", pool.root / "photos")
        wait_until(
            lambda: not pool.status()[1]["reencoding"]["pending"], 60, "all is encoded anew"
        )
        expect_same(before, contents(pool.root / "photos"), "when it is ec:2+1")
        kinds = set()
        for one in json.loads(dynamicfs("policy", "get", "--json", *(pool.root / "photos").iterdir()).out):
            kinds |= {layout["policy"] for layout in one["layouts"]}
        expect("ec:2+1" in kinds, f"the photos are {kinds}")
        third = image_disk(bench.scratch / "third.img", 400 * MIB)
        disk(pool, "add", third.path)
        # By number and by path.
        disk(pool, "remove", "0")
        wait_for_rest(pool)
        expect_equal(numbers(pool), [1, 2, 3], "disks when the first has left")
        images[0].take_away()
        expect_same(before, contents(pool.root / "photos"), "without the first disk")
        expect_equal(pool.status()[0], EXIT_HEALTHY, "exit code of status")
    finally:
        work.end()
    # Lost, and replaced by another while it is away.
    pool.umount()
    third.take_away()
    pool.disks = [images[1], large]
    pool.mount()
    expect_equal(pool.status()[0], EXIT_DEGRADED, "exit code of status without a disk")
    fourth = image_disk(bench.scratch / "fourth.img", 400 * MIB)
    work = Workload(pool.root / "more", bench.seed + 1)
    try:
        disk(pool, "replace", "3", fourth.path)
        wait_for_rest(pool)
        expect_equal(numbers(pool), [1, 2, 4], "disks when the lost one is replaced")
        wait_until(lambda: pool.status()[0] == EXIT_HEALTHY, 60, "the pool is healthy")
    finally:
        work.end()
    pool.disks = [images[1], large, fourth]
    all_of_it = snapshot(pool.root)
    pool.umount()
    large.take_away()
    pool.mount()
    expect_same(all_of_it, snapshot(pool.root), "without the large disk")
    expect_sound(pool.root)
    pool.umount()


@case(
    GROUP,
    "a removal goes on after kills of the daemon, and what is not possible is refused with a remedy",
    where=OWN_POOLS,
    timeout_s=200,
)
def killed(bench):
    images = [image_disk(bench.scratch / f"d{i}.img", 160 * MIB) for i in range(4)]
    pool = bench.pool("pool", images, "ec:2+1").mount()
    fill(pool.root / "photos", bench.rng, count=80)
    before = snapshot(pool.root)
    disk(pool, "remove", images[1].path)
    for _ in range(3):
        time.sleep(bench.rng.random() * 0.3)
        pool.kill()
        pool.disks = [images[0], images[2], images[3]]
        pool.mount()
        expect_same(before, snapshot(pool.root), "after a kill in the middle of a removal")
    wait_for_rest(pool)
    expect_equal(numbers(pool), [0, 2, 3], "disks when one has left")
    for refused, code, words in (
        (disk(pool, "remove", "0", check=False), EXIT_TOO_FEW_DISKS, "on 3 different disks"),
        (disk(pool, "remove", "1", check=False), EXIT_USAGE, "no such disk"),
        (disk(pool, "add", images[2].path, check=False), 10, "is in use"),
        (disk(pool, "add", pool.root / "photos", "--size", "1G", check=False), EXIT_USAGE, "in the pool"),
        (disk(pool, "add", pool.root / "new.img", "--size", "1G", check=False), EXIT_USAGE, "in the pool"),
    ):
        expect_equal(refused.code, code, f"exit code of {refused}")
        expect(words in refused.err, f"says {refused.err}")
    # The one that has left is nobody's now.
    disk(pool, "add", images[1].path)
    expect_equal(numbers(pool), [0, 2, 3, 4], "disks with the old one as a new one")
    disk(pool, "remove", "4")
    disk(pool, "keep", "4", check=False)
    expect_same(before, snapshot(pool.root), "at the end")
    expect_sound(pool.root)
    pool.umount()


@case(
    GROUP,
    "the disk a pool was mounted by leaves, the daemon is killed: the next mount takes the place, another pool does not",
    where=OWN_POOLS,
    timeout_s=120,
)
def mounted_by_one_that_left(bench):
    images = [image_disk(bench.scratch / f"d{i}.img", 160 * MIB) for i in range(2)]
    pool = bench.pool("pool", images, "single").mount()
    fill(pool.root / "photos", bench.rng, count=5)
    before = snapshot(pool.root)
    disk(pool, "remove", "0")
    wait_for_rest(pool)
    expect_equal(numbers(pool), [1], "disks when the first has left")
    pool.kill()
    other = image_disk(bench.scratch / "other.img", 160 * MIB)
    dynamicfs("create", other.path, "--size", "160M", check=True)
    # As long as its disk says whose it is, a dead mount is kept from others.
    dynamicfs("mount", images[1].path, pool.root, check=True)
    pool.kill()
    refused = dynamicfs("mount", other.path, pool.root)
    expect_equal(refused.code, 11, f"exit code of {refused}")
    pool.disks = images[1:]
    pool.mount()
    expect_same(before, snapshot(pool.root), "after the kill")
    pool.umount()


@case(
    GROUP, "a disk without room for what is elsewhere is not let go, and status says how much", where=OWN_POOLS
)
def too_full(bench):
    images = [image_disk(bench.scratch / f"d{i}.img", 96 * MIB) for i in range(3)]
    pool = bench.pool("pool", images, "replica:2").mount()
    (pool.root / "large").write_bytes(bench.rng.randbytes(95 * MIB))
    fsync_path(pool.root / "large")
    refused = disk(pool, "remove", "2", check=False)
    expect_equal(refused.code, 3, f"exit code of {refused}")
    expect("MiB are missing" in refused.err, f"says {refused.err}")
    expect_equal(copying(pool)["state"], "idle", "state after a refusal")
    pool.umount()


@case(
    GROUP,
    "a disk that was away gets by itself what it missed, and an alarm tells of each change of state",
    where=OWN_POOLS,
    timeout_s=120,
)
def comes_back(bench):
    told = bench.scratch / "told"
    program = bench.scratch / "alarm"
    program.write_text(
        "#!/bin/sh\n"
        f'echo "$1 before=$DYNAMICFS_STATE_BEFORE exit=$DYNAMICFS_EXIT at=$DYNAMICFS_MOUNTPOINT" >> {told}\n'
        f"grep -c journal >> {told}\n"
    )
    program.chmod(0o755)
    images = [image_disk(bench.scratch / f"d{i}.img", 160 * MIB) for i in range(3)]
    pool = bench.pool("pool", images, "replica:2", options=(f"alarm={program}",)).mount()
    fill(pool.root / "photos", bench.rng)
    time.sleep(4)
    expect(not told.exists(), "a healthy pool is told of")
    pool.umount()
    images[0].take_away()
    pool.mount()
    fill(pool.root / "more", bench.rng)
    wait_until(lambda: told.exists() and len(told.read_text().splitlines()) == 2, 20, "somebody is told")
    known = told.read_text().splitlines()
    expect_equal(known, [f"degraded before=healthy exit=1 at={pool.root}", "1"], "what is told")
    told.unlink()
    pool.umount()
    images[0].bring_back()
    pool.mount()
    before = snapshot(pool.root)
    wait_until(lambda: pool.status()[0] == EXIT_HEALTHY, 60, "the disk has what it missed")
    wait_until(lambda: told.exists() and "healthy before=degraded exit=0" in told.read_text(), 20, "the end is told")
    pool.umount()
    images[1].take_away()
    pool.mount()
    expect_same(before, snapshot(pool.root), "without another disk")
    pool.umount()
    refused = dynamicfs("mount", images[0].path, pool.root, "-o", "alarm=/nowhere/at/all", check=False)
    expect_refusal(refused, EXIT_USAGE, "no program")
