"""Requests through io_uring instead of /dev/fuse (mount option io_uring). The fuzzer has kinds of its own for it."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from case import OWN_POOLS, case
from cases_names import expect_error
from fuse_rings import offered
from harness import command, die_with_parent, expect, expect_equal, is_running, wait_until
from syscalls import fsync_path, read_direct, shut_down
from targets import MIB, StallingDisk, XfsTarget, directory_disk, dynamicfs, image_disk

GROUP = "io_uring"
NEEDS = ["root", "/dev/fuse", "FUSE over io_uring"]


def ring_pool(bench, **how):
    disks = [image_disk(bench.scratch / f"{name}.img", 256 * MIB) for name in "ab"]
    return bench.pool("pool", disks, "replica:2", options=("io_uring",)).mount(**how)


def fuse_of(pool):
    return pool.status()[1]["fuse"]


@case(GROUP, "requests and answers of every shape come through the rings", OWN_POOLS, NEEDS)
def shapes(bench):
    pool = ring_pool(bench)
    fuse = fuse_of(pool)
    expect("over_io_uring" in fuse["features"], f"it is not used: {fuse['features']}")
    expect(fuse["ring_queues"] >= 1, "there are no queues")
    expect(fuse["ring_entries"] >= 8 * fuse["ring_queues"], "there are hardly any entries")
    root = pool.root
    # No argument but a name; the longest name; a reply with an error; two names and a header.
    name = "n" * 255
    (root / name).mkdir()
    expect_error(errno.ENOENT, os.stat, root / name / "absent")
    os.symlink("t" * 4095, root / "link")
    expect_equal(os.readlink(root / "link"), "t" * 4095, "the longest target")
    os.rename(root / name, root / "directory")
    # A large request that is no WRITE, a large answer that is no READ.
    value = bench.random_bytes(65536)
    os.setxattr(root / "directory", "user.large", value)
    expect_equal(os.getxattr(root / "directory", "user.large"), value, "a large attribute")
    for number in range(3000):
        (root / "directory" / f"{number}").touch()
    expect_equal(len(os.listdir(root / "directory")), 3000, "entries of a directory")
    # WRITE and READ: the largest, and those that no block begins or ends with.
    data = bench.random_bytes(9 * MIB + 777)
    (root / "file").write_bytes(data)
    fd = os.open(root / "file", os.O_RDWR)
    os.pwrite(fd, b"between", 4090)
    os.fsync(fd)
    os.close(fd)
    data = data[:4090] + b"between" + data[4097:]
    expect(read_direct(root / "file", 0, 8 * MIB) == data[: 8 * MIB], "direct reads differ")
    expect_equal(os.statvfs(root).f_namemax, 255, "statfs")
    command("sync", "-f", root)
    pool.remount()
    expect(fuse_of(pool)["ring_queues"] >= 1, "there are no queues after the second mount")
    expect((root / "file").read_bytes() == data, "the file has changed")
    expect_equal(os.getxattr(root / "directory", "user.large"), value, "a large attribute, then")
    metrics = pool.metrics()
    expect(metrics["fuse_ring_requests"] > metrics["fuse_requests_total"] // 2, f"few came by a ring: {metrics}")
    expect(metrics["fuse_ring_answers_handed_over"] > 0, "no worker answered a read")


@case(GROUP, "a daemon that is to end leaves a mount that is in use, and what was synced is there", OWN_POOLS, NEEDS)
def busy(bench):
    pool = ring_pool(bench)
    (pool.root / "synced").write_bytes(b"kept")
    fsync_path(pool.root / "synced")
    fsync_path(pool.root)
    work = (
        "import itertools, os, sys\n"
        "fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\n"
        "for number in itertools.count():\n"
        "    os.pwrite(fd, bytes(70000), number % 64 * 70000)\n"
        "    os.fsync(fd)\n"
    )
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", work, pool.root / f"busy-{number}"],
            stderr=subprocess.DEVNULL,
            preexec_fn=die_with_parent,
        )
        for number in range(4)
    ]
    try:
        wait_until(
            lambda: all((pool.root / f"busy-{number}").exists() for number in range(4)), 20, "writers"
        )
        daemon = pool.daemon_pid()
        os.kill(daemon, signal.SIGTERM)
        wait_until(lambda: not is_running(daemon), 60, "the end of the daemon")
        for writer in writers:
            writer.wait(30)  # they get an error: nobody is left who would answer
    finally:
        for writer in writers:
            writer.kill()
            writer.wait(30)
    pool.mount()
    expect_equal((pool.root / "synced").read_bytes(), b"kept", "what was synced")
    pool.umount()
    dynamicfs("check", pool.disks[0].path, check=True)


@case(GROUP, "kill -9 ends what was under way, and the next mount has rings again", OWN_POOLS, NEEDS)
def killed(bench):
    pool = ring_pool(bench)
    (pool.root / "synced").write_bytes(b"kept")
    fsync_path(pool.root / "synced")
    fsync_path(pool.root)
    pool.kill()
    pool.mount()
    expect(fuse_of(pool)["ring_queues"] >= 1, "there are no queues")
    expect_equal((pool.root / "synced").read_bytes(), b"kept", "what was synced")


@case(GROUP, "where the kernel does not offer it, /dev/fuse is used and the log says so", OWN_POOLS, NEEDS)
def not_offered(bench):
    with offered(False):
        pool = ring_pool(bench)
    fuse = fuse_of(pool)
    expect("over_io_uring" not in fuse["features"], "it is used all the same")
    expect_equal(fuse["ring_queues"], 0, "queues")
    (pool.root / "file").write_bytes(b"content")
    status = pool.status()[1]
    expect(status["daemon"]["io_uring"], "status does not say that it was asked for")
    log = Path(f"/var/log/dynamicfs/{status['pool']['uuid']}.log").read_text()
    expect("enable_uring" in log, "the log does not say what is missing")


def log_of(status):
    return Path(f"/var/log/dynamicfs/{status['pool']['uuid']}.log").read_text()


@case(
    GROUP,
    "an abort while requests are under way ends the daemon with a word, and what was synced is there",
    OWN_POOLS,
    NEEDS + ["bindfs"],
    timeout_s=180,
)
def aborted(bench):
    slow = StallingDisk(bench.workspace, bench.scratch / "disk-slow")
    pool = bench.pool("pool", [slow], "single", options=("io_uring",)).mount()
    status = pool.status()[1]
    expect(status["fuse"]["ring_queues"] >= 1, "there are no queues")
    # Of our own: it need not be mounted at /sys/fs/fuse/connections.
    connections = bench.scratch / "connections"
    connections.mkdir()
    command("mount", "-t", "fusectl", "none", connections)
    abort = connections / status["daemon"]["device"].split(":")[1] / "abort"
    (pool.root / "synced").write_bytes(b"kept")
    fsync_path(pool.root / "synced")
    fsync_path(pool.root)
    work = (
        "import os, sys\n"
        "fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\n"
        "while True:\n"
        "    os.pwrite(fd, bytes(70000), 0)\n"
        "    os.fsync(fd)\n"
    )
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", work, pool.root / f"busy-{number}"],
            stderr=subprocess.DEVNULL,
            preexec_fn=die_with_parent,
        )
        for number in range(4)
    ]
    daemon = status["daemon"]["pid"]
    try:
        wait_until(lambda: all((pool.root / f"busy-{number}").exists() for number in range(4)), 20, "writers")
        slow.stall()
        # One fsync waits for the log, others for it; nobody gets on.
        wait_until(lambda: pool.metrics()["fuse_in_flight"] >= 4, 20, "requests that wait for the disk")
        abort.write_text("1")
        for writer in writers:
            expect(writer.wait(30) != 0, "a writer was told that all was well")
    finally:
        slow.go_on()
        for writer in writers:
            writer.kill()
            writer.wait(30)
    wait_until(lambda: not is_running(daemon), 60, "the end of the daemon")
    log = log_of(status)
    expect("the connection was aborted" in log, "the log has no word about it")
    expect(log.rstrip().endswith("ended"), f"it did not end cleanly: {log[-300:]}")
    expect(not os.path.ismount(pool.root), "the dead mount is there")
    pool.mount()
    expect_equal((pool.root / "synced").read_bytes(), b"kept", "what was synced")
    pool.umount()
    dynamicfs("check", pool.disks[0].path, check=True)
    slow.end()


@case(GROUP, "a disk that fails under a write is an error at fsync", OWN_POOLS, NEEDS + ["xfs"])
def failing_disk(bench):
    host = XfsTarget(bench.workspace, bench.scratch / "host", 700 * MIB)
    pool = bench.pool("pool", [directory_disk(host.root / "disk")], "single", options=("io_uring",)).mount()
    expect(fuse_of(pool)["ring_queues"] >= 1, "there are no queues")
    fd = os.open(pool.root / "file", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, bytes(MIB), 0)
    os.fsync(fd)
    shut_down(host.root)
    os.pwrite(fd, b"x" * MIB, 0)
    # The pool may be read-only before the kernel hands it over.
    expect_error((errno.EIO, errno.EROFS), os.fsync, fd)
    with contextlib.suppress(OSError):  # the time of change could not be kept either
        os.close(fd)


@case(GROUP, "more seekers of one file than a queue has entries do not hang", OWN_POOLS, NEEDS, timeout_s=180)
def seekers(bench):
    pool = ring_pool(bench)
    fuse = fuse_of(pool)
    count = fuse["ring_entries"] // fuse["ring_queues"] + 20
    path = pool.root / "file"
    with open(path, "wb") as file:
        file.truncate(64 * MIB)
    # All on one processor, so in one queue; each dirties pages, so that holes are asked for again and again.
    processor = min(os.sched_getaffinity(0))
    work = (
        "import os, sys\n"
        f"os.sched_setaffinity(0, {{{processor}}})\n"
        "fd = os.open(sys.argv[1], os.O_RDWR)\n"
        "mine = int(sys.argv[2])\n"
        "for turn in range(2):\n"
        "    os.pwrite(fd, b'd' * 4096, (mine * 2 + 1) * 65536 + turn * 4096)\n"
        "    os.lseek(fd, 0, os.SEEK_HOLE)\n"
        "    at = os.lseek(fd, (mine * 2 + 1) * 65536, os.SEEK_DATA)\n"
        "    assert at == (mine * 2 + 1) * 65536, at\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", work, path, str(number)], preexec_fn=die_with_parent)
        for number in range(count)
    ]
    deadline = time.monotonic() + 120
    try:
        for seeker in running:
            expect_equal(seeker.wait(max(1, deadline - time.monotonic())), 0, "exit code of a seeker")
    finally:
        for seeker in running:
            seeker.kill()
            seeker.wait(30)
    (pool.root / "other").write_bytes(b"answered")
    pool.umount()
