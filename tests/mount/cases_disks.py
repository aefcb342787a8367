"""Disks that go away: before the mount, while it runs, and one after the other.

"Detaching" a loop device in use only marks it: nothing happens before its last user closes it. What
yields real errors is the shutdown of the file system that holds the disk: from then on every read,
write and flush of a directory or of a loop device on it fails with EIO, as on a disk whose cable
was pulled. A third way, a loop device whose file is cut to length zero, fails reads and accepts
writes.
"""

import errno
import mmap
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from case import OWN_POOLS, case
from harness import Skip, command, expect, expect_equal, wait_until
from snapshot import expect_same, expect_sound, snapshot
from syscalls import fsync_path, read_direct, shut_down
from targets import (
    EXIT_AT_RISK,
    EXIT_DEGRADED,
    EXIT_HEALTHY,
    EXIT_SPLIT_BRAIN,
    MIB,
    directory_disk,
    dynamicfs,
    expect_refusal,
    StallingDisk,
    image_disk,
    loop_disk,
)

GROUP = "disks"
HOST_BYTES = 700 * MIB
DISK_BYTES = 384 * MIB


def write_set(root, name, rng, count=40):
    """Writes some files below `root`/`name` and makes them durable; returns {path: content}."""
    (root / name).mkdir()
    files = {}
    for number in range(count):
        path = root / name / f"file-{number}"
        files[path] = rng.randbytes(int(1 + 500_000 ** rng.random()))
        path.write_bytes(files[path])
        fsync_path(path)
    fsync_path(root / name)
    return files


def change_set(files, rng):
    """Changes every second file, some from scratch and some in the middle, and makes that durable.

    A disk that is away during this comes back with old content, which nobody may see.
    """
    for number, path in enumerate(list(files)):
        if number % 4 == 0:
            files[path] = rng.randbytes(len(files[path]) // 2 + 1)
            path.write_bytes(files[path])
        elif number % 4 == 1:
            at = rng.randrange(len(files[path]))
            piece = rng.randbytes(min(10_000, len(files[path]) - at))
            files[path] = files[path][:at] + piece + files[path][at + len(piece) :]
            with open(path, "r+b") as file:
                file.seek(at)
                file.write(piece)
        fsync_path(path)


def expect_files(files, what):
    """Every file reads back right from the disks, not from the page cache."""
    for path, content in files.items():
        expect(read_direct(path) == content, f"{what}: {path} is wrong")


def expect_degraded(pool, disk, timeout_s=60):
    """Waits until status says which disk is gone, in every form it has."""

    def is_degraded():
        code, status = pool.status()
        return status if code == EXIT_DEGRADED else None

    status = wait_until(
        is_degraded, timeout_s, f"status says degraded after {disk} went", step_s=0.3
    )
    expect_equal(status["pool"]["state"], "degraded", "state of the pool")
    states = {one["path"]: one["state"] for one in status["disks"]}
    expect(states.get(str(disk.path)) in ("missing", "failed"), f"state of {disk}: {states}")
    for other in pool.disks:
        if other is not disk:
            expect_equal(states.get(str(other.path)), "healthy", f"state of {other}")
    outcome = dynamicfs("status", pool.root)
    expect(
        str(disk.path) in outcome.out,
        f"status for people does not name {disk}: {outcome.out[:500]}",
    )


def _absent_at_mount(kind):
    @case(
        GROUP,
        f"a pool of two copies mounts with {kind} away, reads and writes, and takes it back",
        where=OWN_POOLS,
        timeout_s=200,
    )
    def run(bench):
        victim = bench.scratch / "victim"
        disks = [
            image_disk(bench.scratch / "disk-a.img", DISK_BYTES),
            directory_disk(victim) if kind == "a directory" else image_disk(victim, DISK_BYTES),
            image_disk(bench.scratch / "disk-c.img", DISK_BYTES),
        ]
        pool = bench.pool("pool", disks, "replica:2").mount()
        files = write_set(pool.root, "before", bench.rng)
        pool.umount()
        disks[1].take_away()
        pool.mount()
        expect_degraded(pool, disks[1])
        expect_files(files, "with the disk away")
        files |= write_set(pool.root, "meanwhile", bench.rng)
        change_set(files, bench.rng)
        expect_sound(pool.root)
        before = snapshot(pool.root)
        pool.umount()
        disks[1].bring_back()
        for disk in disks:  # The stale disk must not win, whichever is asked first.
            pool.mount(disk=disk)
            expect_same(
                before, snapshot(pool.root), f"mounted from {disk} after the disk came back"
            )
            expect_files(files, f"mounted from {disk} after the disk came back")
            pool.umount()

    return run


for _kind in ("a directory", "an image"):
    _absent_at_mount(_kind)


def own_xfs(scratch, name):
    """A small xfs of its own: its device and its mountpoint."""
    mountpoint = scratch / f"{name}-host"
    mountpoint.mkdir()
    device = loop_disk(scratch / f"{name}-host.img", HOST_BYTES).path
    command("mkfs.xfs", "-q", device)
    command("mount", device, mountpoint)
    return device, mountpoint


class HostedDisk:
    """A disk on a small xfs of its own. pull() makes all its I/O fail; put_back() undoes that."""

    def __init__(self, scratch, name, kind):
        self._device, self.mountpoint = own_xfs(scratch, name)
        if kind == "directory":
            self.disk = directory_disk(self.mountpoint / name)
        else:
            self.disk = loop_disk(self.mountpoint / f"{name}.img", DISK_BYTES)
        self.kind = kind

    def pull(self):
        shut_down(self.mountpoint)

    def put_back(self):
        """To be called when nobody uses the disk; its content is what was flushed before the pull."""
        if self.kind == "device":
            command("losetup", "--detach", self.disk.path)
        command("umount", self.mountpoint)
        command("mount", self._device, self.mountpoint)
        if self.kind == "device":
            command("losetup", self.disk.path, self.disk.volume)


def _pulled_while_running(kind):
    @case(
        GROUP,
        f"a {kind} that fails every request while the pool runs: all files read right, writes go on",
        where=OWN_POOLS,
        needs=["xfs"],
        timeout_s=240,
    )
    def run(bench):
        hosted = HostedDisk(bench.scratch, "victim", kind)
        disks = [
            image_disk(bench.scratch / "disk-a.img", DISK_BYTES),
            hosted.disk,
            image_disk(bench.scratch / "disk-c.img", DISK_BYTES),
        ]
        pool = bench.pool("pool", disks, "replica:2").mount()
        files = write_set(pool.root, "before", bench.rng)
        hosted.pull()
        expect_files(files, "right after the disk went")
        files |= write_set(pool.root, "after", bench.rng)
        change_set(files, bench.rng)
        expect_degraded(pool, hosted.disk)
        expect_files(files, "when the disk was known to be gone")
        pool.umount()
        hosted.put_back()
        pool.mount()
        expect_files(files, "after the disk came back")
        files |= write_set(pool.root, "later", bench.rng, count=10)
        pool.umount()

    return run


for _kind in ("directory", "device"):
    _pulled_while_running(_kind)


@case(
    GROUP,
    "a loop device whose file is cut to nothing: reads come from the other copy, writes go on",
    where=OWN_POOLS,
    needs=["loop devices"],
    timeout_s=200,
)
def emptied_disk(bench):
    victim = loop_disk(bench.scratch / "victim.img", DISK_BYTES)
    disks = [image_disk(bench.scratch / "disk-a.img", DISK_BYTES), victim]
    pool = bench.pool("pool", disks, "replica:2").mount()
    files = write_set(pool.root, "before", bench.rng)
    os.truncate(victim.volume, 0)
    command("blockdev", "--flushbufs", victim.path)
    expect_files(files, "after the disk's content went")
    files |= write_set(pool.root, "after", bench.rng, count=20)
    expect_files(files, "with new files")
    code, status = pool.status()
    bad = status["metrics"]["checksum_errors"] + status["metrics"].get("read_errors", 0)
    expect(code != EXIT_HEALTHY or bad > 0, "status is healthy and counts no error")
    pool.umount()


@case(
    GROUP,
    "a pool loses a disk, is killed, and comes back degraded with everything",
    where=OWN_POOLS,
    needs=["xfs"],
    timeout_s=200,
)
def killed_while_degraded(bench):
    hosted = HostedDisk(bench.scratch, "victim", "directory")
    pool = bench.pool(
        "pool", [image_disk(bench.scratch / "disk-a.img", DISK_BYTES), hosted.disk], "replica:2"
    ).mount()
    files = write_set(pool.root, "before", bench.rng, count=15)
    hosted.pull()
    files |= write_set(pool.root, "after", bench.rng, count=15)
    pool.kill()
    pool.mount(disk=pool.disks[0])
    expect_files(files, "after the kill")
    expect_degraded(pool, hosted.disk)
    pool.umount()


@case(
    GROUP,
    "disks that were mounted apart are refused together, both named, and neither is changed",
    where=OWN_POOLS,
    timeout_s=200,
)
def split_brain(bench):
    one, two = disks = [
        directory_disk(bench.scratch / "disk-a"),
        directory_disk(bench.scratch / "disk-b"),
    ]
    pool = bench.pool("pool", disks, "replica:2").mount()
    write_set(pool.root, "common", bench.rng, count=5)
    pool.umount()
    for here, away in ((one, two), (two, one)):
        away.take_away()
        pool.mount(disk=here)
        write_set(pool.root, f"only-on-{here.path.name}", bench.rng, count=5)
        pool.umount()
        away.bring_back()
    before = [snapshot(disk.path) for disk in disks]
    for disk in disks:
        outcome = pool.try_mount(disk=disk)
        expect_refusal(outcome, EXIT_SPLIT_BRAIN, one, two)
    for disk, old in zip(disks, before):
        expect_same(old, snapshot(disk.path), f"{disk} after the refusal")


@case(
    GROUP,
    "a disk that keeps the journal and goes away is replaced while files are written",
    where=OWN_POOLS,
    timeout_s=120,
)
def journal_replaced(bench):
    disks = [image_disk(bench.scratch / f"disk-{name}.img", 256 * MIB) for name in "abcd"]
    pool = bench.pool("pool", disks, "replica:2").mount()
    files = write_set(pool.root, "before", bench.rng, count=10)
    expect_equal(
        [disk["member"] for disk in pool.status()[1]["disks"]], [True] * 3 + [False], "members"
    )
    os.unlink(disks[1].volume)
    wait_until(
        lambda: pool.status()[1]["disks"][1]["state"] == "failed", 30, "the loss to be noticed"
    )
    files |= write_set(pool.root, "after", bench.rng, count=10)
    dynamicfs("sync", pool.root, check=True)
    status = pool.status()[1]
    expect_equal(
        [disk["member"] for disk in status["disks"]], [True, False, True, True], "members then"
    )
    expect_equal(status["metrics"]["journal_members_replaced"], 1, "journal_members_replaced")
    pool.kill()
    dynamicfs("umount", pool.root, check=True)
    outcome = dynamicfs("check", "--data", disks[3].path, check=False)
    expect_equal(outcome.code, 1, f"exit code of check, which said {outcome.text}")
    pool.mount(disk=disks[3])
    expect_files(files, "after the loss and a kill")


@case(GROUP, "a disk that was away and came back is no split brain", where=OWN_POOLS, timeout_s=120)
def stale_disk(bench):
    one, two = disks = [
        directory_disk(bench.scratch / "disk-a"),
        directory_disk(bench.scratch / "disk-b"),
    ]
    pool = bench.pool("pool", disks, "replica:2").mount()
    pool.umount()
    two.take_away()
    files = {}
    for number in range(3):  # Several epochs pass without it.
        pool.mount(disk=one)
        files |= write_set(pool.root, f"round-{number}", bench.rng, count=5)
        pool.umount()
    two.bring_back()
    pool.mount(disk=two)
    expect_equal(
        sorted(path.name for path in pool.root.iterdir()),
        ["round-0", "round-1", "round-2"],
        "directories",
    )
    expect_files(files, "after the disk came back")
    pool.umount()


@case(
    GROUP,
    "an image file that is deleted under the pool is a lost disk, not a silent one",
    where=OWN_POOLS,
    timeout_s=120,
)
def deleted_image(bench):
    victim = image_disk(bench.scratch / "victim.img", DISK_BYTES)
    disks = [image_disk(bench.scratch / "disk-a.img", DISK_BYTES), victim]
    pool = bench.pool("pool", disks, "replica:2", options=["commit_interval=1"]).mount()
    files = write_set(pool.root, "before", bench.rng, count=5)
    victim.path.unlink()
    expect_degraded(pool, victim)
    files |= write_set(pool.root, "after", bench.rng, count=5)
    expect_files(files, "without it")
    pool.umount()


@case(
    GROUP,
    "one disk missing and the other stale: status says that files may be unreadable, until a scrub",
    where=OWN_POOLS,
    timeout_s=120,
)
def missing_and_stale(bench):
    one, two = disks = [
        directory_disk(bench.scratch / "disk-a"),
        directory_disk(bench.scratch / "disk-b"),
    ]
    pool = bench.pool("pool", disks, "replica:2").mount()
    common = write_set(pool.root, "common", bench.rng, count=5)
    pool.umount()
    two.take_away()
    pool.mount(disk=one)
    late = write_set(pool.root, "late", bench.rng, count=5)
    pool.umount()
    two.bring_back()
    pool.mount(disk=one)
    code, status = pool.status()
    expect_equal((code, status["pool"]["state"]), (EXIT_DEGRADED, "degraded"), "with a stale disk")
    pool.umount()
    one.take_away()
    pool.mount(disk=two)
    code, status = pool.status()
    expect_equal((code, status["pool"]["state"]), (EXIT_AT_RISK, "damaged"), "with one missing")
    expect(any(str(one.path) in problem for problem in status["problems"]), f"{status['problems']}")
    expect_files(common, "what both disks have")
    unreadable = 0
    for path, content in late.items():
        try:
            expect(read_direct(path) == content, f"{path} is wrong")
        except OSError as error:
            expect_equal(errno.errorcode[error.errno], "EIO", f"error of {path}")
            unreadable += 1
    expect(unreadable > 0, "every file was read, though its only disk is away")
    pool.umount()
    one.bring_back()
    pool.mount()
    expect_files(common | late, "with both disks")
    expect_equal(dynamicfs("scrub", "start", pool.root).code, 0, "exit code of scrub start")
    wait_until(
        lambda: pool.status()[1]["scrub"]["state"] == "finished", 60, "the scrub finishes"
    )
    _, status = pool.status()
    expect_equal([disk["state"] for disk in status["disks"]], ["healthy"] * 2, "states of the disks")
    pool.umount()


@case(
    GROUP,
    "a full file system under one disk of three: writes, checkpoints and the next mount go on",
    where=OWN_POOLS,
    needs=["root"],
    timeout_s=120,
)
def full_host(bench):
    small = bench.scratch / "small"
    small.mkdir()
    command("mount", "-t", "tmpfs", "-o", "size=80M", "tmpfs", small)
    disks = [
        image_disk(small / "disk-a.img", 300 * MIB),
        image_disk(bench.scratch / "disk-b.img", 300 * MIB),
        image_disk(bench.scratch / "disk-c.img", 300 * MIB),
    ]
    pool = bench.pool("pool", disks, "replica:2").mount()
    files = {}
    for number in range(10):
        path = pool.root / f"file-{number}"
        files[path] = bench.random_bytes(20 * MIB)
        path.write_bytes(files[path])
        fsync_path(path)
    code, status = pool.status()
    expect_equal(code, EXIT_DEGRADED, "exit code of status")
    expect(
        any(f"({disks[0].path}) has no room" in problem for problem in status["problems"]),
        f"the full disk is named: {status['problems']}",
    )
    for number in range(500):
        (pool.root / f"small-{number}").write_bytes(b"x")
    pool.remount()
    expect_files(files, "after a remount")
    victim = pool.root / "file-0"
    del files[victim]
    victim.unlink()
    for number in range(3):
        path = pool.root / f"new-{number}"
        files[path] = bench.random_bytes(5 * MIB)
        path.write_bytes(files[path])
    pool.remount()
    expect_files(files, "after deleting and writing")
    pool.umount()


def read_all_beside(files, threads):
    """Reads every file block by block, several at once; None, or what was wrong."""
    wrong = []

    def read(path, content):
        handle = os.open(path, os.O_RDONLY | os.O_DIRECT)
        try:
            with mmap.mmap(-1, 4096) as block:
                for at in range(0, len(content), 4096):
                    size = os.preadv(handle, [block], at)
                    if block[:size] != content[at : at + 4096]:
                        wrong.append(f"{path} at {at}")
        finally:
            os.close(handle)

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(read, *file) for file in files.items()]:
            done.result()
    expect(not wrong, f"read wrong: {wrong[:5]}")


def disk_states(pool):
    return {one["path"]: one["state"] for one in pool.status()[1]["disks"]}


@case(
    GROUP,
    "a disk that stalls: every read is answered meanwhile, it is suspect, and comes back",
    where=OWN_POOLS,
    timeout_s=180,
)
def stalled_disk(bench):
    slow = StallingDisk(bench.workspace, bench.scratch / "disk-slow")
    disks = [image_disk(bench.scratch / "disk-a.img", DISK_BYTES), slow]
    pool = bench.pool("pool", disks, "replica:2").mount()
    files = write_set(pool.root, "before", bench.rng)
    slow.stall()
    # The whole set while nothing is answered there, whatever was under way.
    for _ in range(3):
        read_all_beside(files, 8)
    wait_until(lambda: disk_states(pool)[str(slow.path)] == "suspect", 60, "the disk is suspect", 0.3)
    code, status = pool.status()
    expect_equal(code, EXIT_DEGRADED, "exit code of status")
    expect(any(str(slow.path) in one and "suspect" in one for one in status["problems"]), f"problems: {status['problems']}")
    read_all_beside(files, 8)
    slow.go_on()
    wait_until(lambda: disk_states(pool)[str(slow.path)] == "healthy", 60, "the disk is healthy", 0.3)
    metrics = pool.metrics()
    expect(metrics["read_hedges_won"] > 0, "no read asked the other copy")
    expect(metrics["disk1_hedges"] > 0, "no hedge was because of the disk that stalled")
    expect_equal(metrics["disks_hung"], 0, "disks given up")
    expect_equal(metrics["disk1_read_errors"], 0, "errors")
    expect_equal(pool.status()[0], EXIT_HEALTHY, "exit code of status")
    listed = dynamicfs("disk", "list", pool.root)
    expect(str(slow.path) in listed.out and "read p99" in listed.out, f"disk list: {listed}")
    files |= write_set(pool.root, "after", bench.rng, count=5)
    expect_files(files, "after the stall")
    pool.umount()
    slow.end()


@case(
    GROUP,
    "reads from the disks go on while the fsync of a large file waits for a disk",
    where=OWN_POOLS,
    timeout_s=180,
)
def large_fsync(bench):
    slow = StallingDisk(bench.workspace, bench.scratch / "disk-slow")
    disks = [image_disk(bench.scratch / "disk-a.img", 512 * MIB), slow]
    # 192 MiB of it may be dirty.
    pool = bench.pool("pool", disks, "replica:2", options=["write_memory=320M"]).mount()
    if not os.path.exists(f"/sys/class/bdi/{pool.status()[1]['daemon']['device']}/max_bytes"):
        raise Skip("this kernel does not limit what one file system has dirty")
    files = write_set(pool.root, "before", bench.rng)
    pool.remount()
    slow.stall()
    content = bench.random_bytes(MIB) * 180
    (bench.scratch / "source").write_bytes(content)
    # A process of its own: what waits for a mount in this one may keep it from starting others.
    copy = ["dd", f"if={bench.scratch / 'source'}", f"of={pool.root / 'large'}", "bs=1M", "conv=fsync"]
    with subprocess.Popen(copy, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as writer:

        counts = []

        def stands_still():
            disk = pool.status()[1]["disks"][1]
            counts.append(disk["queued"] + disk["in_flight"])
            return len(counts) > 3 and counts[-1] >= 20 and counts[-1] == counts[-4]

        try:
            wait_until(stands_still, 20, "writes wait for the disk", 0.3)
            read_all_beside(files, 8)
            expect(disk_states(pool)[str(slow.path)] != "failed", "the reads waited until the disk was given up")
            expect(writer.poll() is None, "the fsync did not wait")
        finally:
            slow.go_on()
        expect_equal(writer.wait(60), 0, "exit code of dd")
    pool.remount()
    expect_files(files | {pool.root / "large": content}, "after the stall")
    pool.umount()
    slow.end()


@case(
    GROUP,
    "a disk is taken offline and away, comes back, and gets what it has missed",
    where=OWN_POOLS,
    needs=["xfs"],
    timeout_s=120,
)
def offline_and_online(bench):
    device, host = own_xfs(bench.scratch, "away")
    away = directory_disk(host / "disk")
    disks = [image_disk(bench.scratch / f"disk-{name}.img", DISK_BYTES) for name in "ab"]
    pool = bench.pool("pool", [disks[0], away, disks[1]], "replica:2").mount()
    files = write_set(pool.root, "before", bench.rng, count=10)
    number = next(disk["id"] for disk in pool.status()[1]["disks"] if disk["path"] == str(away.path))
    dynamicfs("disk", "offline", pool.root, number, check=True)
    expect_equal(disk_states(pool)[str(away.path)], "offline", "state of the disk")
    refused = dynamicfs("disk", "offline", pool.root, disks[0].path)
    expect(refused.code == 8 and "cannot be done without" in refused.err, f"a second one: {refused}")
    # Nothing of it is in use any more: it could be unplugged.
    command("umount", host)
    missing = dynamicfs("disk", "online", pool.root, number)
    expect(missing.code != 0 and str(away.path) in missing.err, f"while it is away: {missing}")
    files |= write_set(pool.root, "meanwhile", bench.rng, count=10)
    change_set(files, bench.rng)
    # It comes back in another place.
    other = bench.scratch / "elsewhere"
    other.mkdir()
    command("mount", device, other)
    said = dynamicfs("disk", "online", pool.root, number, other / "disk", check=True)
    expect("is here again" in said.out, f"online says: {said}")
    wait_until(lambda: pool.status()[0] == EXIT_HEALTHY, 60, "what it has missed to be there")
    again = dynamicfs("disk", "online", pool.root, number)
    expect(again.code == 4 and "already" in again.err, f"once more: {again}")
    expect_files(files, "after it came back")
    pool.umount()
    pool.mount()
    expect_equal(pool.status()[0], EXIT_HEALTHY, "status after the next mount")
    # The first disk alone is gone: what it had is on the others.
    pool.umount()
    disks[0].volume.rename(bench.scratch / "gone")
    dynamicfs("mount", disks[1].path, pool.root, check=True)
    expect_files(files, "without the first disk")
    pool.umount()
    command("umount", other)


def daemon_has_open(pool, path):
    descriptors = Path(f"/proc/{pool.daemon_pid()}/fd")
    return any(os.path.realpath(one) == str(path) for one in descriptors.iterdir())


@case(
    GROUP,
    "a disk that failed is let go of, and taken back when it works again",
    where=OWN_POOLS,
    needs=["xfs"],
    timeout_s=120,
)
def failed_and_online(bench):
    hosted = HostedDisk(bench.scratch, "victim", "device")
    disks = [image_disk(bench.scratch / "disk-a.img", DISK_BYTES), hosted.disk]
    pool = bench.pool("pool", disks, "replica:2").mount()
    files = write_set(pool.root, "before", bench.rng, count=10)
    hosted.pull()
    files |= write_set(pool.root, "meanwhile", bench.rng, count=10)
    expect_equal(disk_states(pool)[str(hosted.disk.path)], "failed", "state of the disk")
    # While the pool is mounted: this fails as long as the daemon has the device open.
    wait_until(lambda: not daemon_has_open(pool, hosted.disk.path), 30, "the daemon to let go of it")
    hosted.put_back()
    dynamicfs("disk", "online", pool.root, hosted.disk.path, check=True)
    wait_until(lambda: pool.status()[0] == EXIT_HEALTHY, 60, "what it has missed to be there")
    expect_files(files, "after it came back")
    pool.kill()
    pool.mount()
    expect_files(files, "after a kill")
    pool.umount()


@case(
    GROUP,
    "a disk that hangs for good: fsync waits, then the pool goes on without it",
    where=OWN_POOLS,
    needs=["xfs"],
    timeout_s=240,
)
def hung_disk(bench):
    _, host = own_xfs(bench.scratch, "slow")
    slow = StallingDisk(bench.workspace, bench.scratch / "disk-slow", behind=host / "disk")
    disks = [image_disk(bench.scratch / "disk-a.img", DISK_BYTES), slow]
    pool = bench.pool("pool", disks, "replica:2").mount()
    files = write_set(pool.root, "before", bench.rng, count=5)
    # bindfs, which has one thread, does not come back from the next write: such a request the kernel
    # cannot take back, even of a process that was killed.
    command("fsfreeze", "--freeze", host)
    try:
        # Returns when the disk has been given up, after half a minute.
        files |= write_set(pool.root, "meanwhile", bench.rng, count=5)
        expect_equal(disk_states(pool)[str(slow.path)], "failed", "state of the disk")
        expect_degraded(pool, slow)
        expect_files(files, "without it")
        said = pool.umount().err
        expect(f"{slow.path} does not answer and was left behind" in said, f"umount says: {said}")
    finally:
        command("fsfreeze", "--unfreeze", host)
    pool.mount()
    expect_equal(disk_states(pool)[str(slow.path)], "stale", "state of the disk")
    expect_files(files, "with the disk that hung")
    pool.umount()
    slow.end()
