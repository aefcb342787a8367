"""The ends of a mount: unmount, sync, signals, death and a new beginning, and the end of its space.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time

from case import OWN_POOLS, case
from cases_command import hashes, two_images
from harness import expect, expect_equal, is_running, wait_until
from snapshot import expect_same, snapshot
from targets import MIB, StallingDisk, binary, dynamicfs, image_disk

GROUP = "ends"


@case(
    GROUP,
    "umount returns when everything is on disk and the pool can be mounted again at once",
    where=OWN_POOLS,
)
def umount_waits(bench):
    pool = bench.pool("pool", two_images(bench)).mount()
    for number in range(3):
        data = bench.random_bytes(24 * MIB)
        (pool.root / "file").write_bytes(data)
        pid = pool.daemon_pid()
        pool.umount()
        volumes = hashes(pool.disks)
        wait_until(lambda: not is_running(pid), 5, "the end of the daemon after umount returned")
        expect_equal(
            hashes(pool.disks),
            volumes,
            "the disks after umount returned and when the daemon had ended",
        )
        pool.mount()
        expect((pool.root / "file").read_bytes() == data, f"wrong content after unmount {number}")
    pool.umount()


@case(GROUP, "umount of a mount in use is refused and leaves it working", where=OWN_POOLS)
def umount_busy(bench):
    pool = bench.pool("pool", two_images(bench)).mount()
    with open(pool.root / "open", "wb") as file:
        outcome = dynamicfs("umount", pool.root)
        expect(outcome.code != 0, "umount succeeded while a file was open")
        expect(
            str(pool.root) in outcome.err, f"the message does not name the mountpoint: {outcome}"
        )
        file.write(b"still writable")
    expect_equal((pool.root / "open").read_bytes(), b"still writable", "the open file")
    pool.umount()


@case(GROUP, "dynamicfs sync makes everything durable that was written before", where=OWN_POOLS)
def sync_is_durable(bench):
    pool = bench.pool("pool", two_images(bench)).mount()
    for number in range(200):
        (pool.root / f"file-{number}").write_bytes(b"content %d" % number * 100)
    before = snapshot(pool.root)
    dynamicfs("sync", pool.root, check=True)
    pool.kill()
    pool.mount()
    expect_same(before, snapshot(pool.root), "the tree after sync and kill -9")
    pool.umount()


@case(GROUP, "dynamicfs sync waits for writes that a disk has not carried out", OWN_POOLS, ["root", "bindfs"])
def sync_waits(bench):
    """syncfs(2) need not wait for what it makes FUSE write: by Linux 6.18 it does not."""
    slow = StallingDisk(bench.workspace, bench.scratch / "disk-slow")  # the fourth: it keeps no journal
    disks = [image_disk(bench.scratch / f"disk-{number}.img", 512 * MIB) for number in range(3)]
    pool = bench.pool("pool", [*disks, slow], "single", ["commit_interval=300"]).mount()
    path = pool.root / "file"
    path.write_bytes(bench.random_bytes(8 * MIB))
    # Begun before there is anything dirty: a child that closes the file would write it back first.
    sync = subprocess.Popen(
        ["sh", "-c", f"read go; exec {binary()} sync {pool.root}"], stdin=subprocess.PIPE
    )
    for _ in range(2):
        dynamicfs("sync", pool.root, check=True)
    data = bench.random_bytes(3 * MIB)
    slow.stall()
    fd = os.open(path, os.O_RDWR)
    try:
        os.pwrite(fd, data, 0)
        sync.communicate(b"go\n", timeout=5)
        early = True
    except subprocess.TimeoutExpired:
        early = False
    finally:
        slow.go_on()
    expect_equal(sync.wait(60), 0, "exit code of sync")
    expect(not early, "sync has ended, and what was written is not on the disk")
    pool.kill()
    with contextlib.suppress(OSError):
        os.close(fd)
    pool.mount()
    expect(path.read_bytes()[: len(data)] == data, "what was written before the sync is not there")
    pool.umount()
    slow.end()


@case(GROUP, "SIGTERM and SIGINT unmount in order and lose nothing", where=OWN_POOLS)
def clean_signals(bench):
    pool = bench.pool("pool", two_images(bench)).mount()
    for number in (signal.SIGTERM, signal.SIGINT):
        (pool.root / number.name).write_bytes(bench.random_bytes(8 * MIB))
        before = snapshot(pool.root)
        pid = pool.daemon_pid()
        os.kill(pid, number)
        wait_until(lambda: not is_running(pid), 30, f"the daemon's end after {number.name}")
        expect(not os.path.ismount(pool.root), f"still mounted after {number.name}")
        pool.mount()
        expect_same(before, snapshot(pool.root), f"the tree after {number.name}")
    pool.umount()


@case(
    GROUP,
    "in the foreground the daemon is the command itself and ends with exit code 0",
    where=OWN_POOLS,
)
def foreground(bench):
    pool = bench.pool("pool", two_images(bench))
    with open(bench.scratch / "foreground.log", "wb") as output:
        daemon = subprocess.Popen(
            [binary(), "mount", pool.disks[0].path, pool.root, "--foreground"],
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
        )
    pool.workspace.note_process(daemon.pid, below=pool.directory)
    wait_until(lambda: dynamicfs("status", pool.root).code == 0, 20, "the mount")
    expect_equal(pool.daemon_pid(), daemon.pid, "the process that status names")
    (pool.root / "file").write_bytes(b"content")
    daemon.terminate()
    expect_equal(daemon.wait(30), 0, "exit code")
    pool.mount()
    expect_equal((pool.root / "file").read_bytes(), b"content", "the file")
    pool.umount()


@case(
    GROUP,
    "a dead mount answers with errors and the next mount replaces it, here or elsewhere",
    where=OWN_POOLS,
)
def dead_mount(bench):
    pool = bench.pool("pool", two_images(bench)).mount()
    (pool.root / "file").write_bytes(b"content")
    dynamicfs("sync", pool.root, check=True)
    pool.kill()
    try:
        os.listdir(pool.root)
        expect(False, "the dead mount still lists its files")
    except OSError:
        pass
    started = time.monotonic()
    pool.mount()
    expect(time.monotonic() - started < 15, "mounting after a kill took 15 s or more")
    expect_equal(
        (pool.root / "file").read_bytes(), b"content", "the file after the mount was replaced"
    )
    pool.kill()
    elsewhere = bench.scratch / "elsewhere"
    elsewhere.mkdir()
    pool.mount(mountpoint=elsewhere)
    expect_equal((elsewhere / "file").read_bytes(), b"content", "the file in the other mountpoint")
    dynamicfs("umount", elsewhere, check=True)


@case(
    GROUP,
    "a full pool says so, still deletes, and goes on when there is room",
    where=OWN_POOLS,
    timeout_s=240,
)
def full_pool(bench):
    pool = bench.pool("pool", two_images(bench), "replica:2").mount()
    info = os.statvfs(pool.root)
    available_bytes = info.f_bavail * info.f_frsize
    piece, written = bench.random_bytes(4 * MIB), 0
    try:
        for number in range(1000):
            with open(pool.root / f"file-{number}", "wb") as file:
                file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            written += len(piece)
        expect(False, "4 GB went into a pool of 256 MiB")
    except OSError as error:
        expect_equal(error.strerror, "No space left on device", "the error of a full pool")
    expect(
        written > 0.85 * available_bytes,
        f"full after {written // MIB} MiB, statvfs promised {available_bytes // MIB}",
    )
    for number in range(written // len(piece)):
        expect(
            (pool.root / f"file-{number}").read_bytes() == piece,
            f"file-{number} is wrong in the full pool",
        )
    for number in (0, 1, 2, 3, written // len(piece)):
        (pool.root / f"file-{number}").unlink()
    # The first sync may still report what did not fit before, as the kernel keeps that error for
    # it.
    dynamicfs("sync", pool.root)
    dynamicfs("sync", pool.root, check=True)
    (pool.root / "again").write_bytes(piece)
    pool.remount()
    expect(
        (pool.root / "again").read_bytes() == piece,
        "the file written after the pool was full is wrong",
    )
    pool.umount()
    shutil.rmtree(bench.scratch / "pool", ignore_errors=True)
