"""What `status` tells about a running pool: that it is documented, valid, and true."""

import contextlib
import fcntl
import json
import mmap
import multiprocessing
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import exposition
from case import NO_TREE, OWN_POOLS, case
from harness import Failure, Skip, expect, expect_equal, wait_until
from schema import Schema, Violation
from targets import EXIT_DEGRADED, EXIT_HEALTHY, EXIT_NOT_MOUNTED, EXIT_USAGE, MIB
from targets import binary, directory_disk, dynamicfs, expect_refusal, image_disk, loop_disk

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tools" / "bench"))
from counters import Strace, disk_counters  # noqa: E402 (it lies there)

GROUP = "metrics"
DISK_BYTES = 256 * MIB
BLOCK = 4096


def images(bench, letters):
    return [image_disk(bench.scratch / f"disk-{letter}.img", DISK_BYTES) for letter in letters]


def write_and_sync(root, files=20):
    for number in range(files):
        with open(root / f"file {number}", "wb", buffering=0) as file:
            file.write(b"content" * 1000)
            os.fsync(file.fileno())


# The schema


@case(GROUP, "status --json is what man/status.schema.json documents, no key more and none less", where=OWN_POOLS)
def json_schema(bench):
    schema = Schema(json.loads((REPOSITORY / "man/status.schema.json").read_text()))

    def check(*words):
        found = json.loads(dynamicfs("status", *words, "--json").out)
        if isinstance(found, list):  # Other pools of this machine may be listed too.
            found = [one for one in found if one["daemon"]["mountpoint"] == str(pool.root)]
            expect_equal(len(found), 1, "answers of this pool")
        try:
            schema.check(found)
        except Violation as violation:
            raise Failure(f"status {words}: {violation}") from violation

    pool = bench.pool("pool", images(bench, "abc"), "replica:2").mount()
    write_and_sync(pool.root)
    (pool.root / "file 0").read_bytes()
    dynamicfs("scrub", "start", pool.root, check=True)
    wait_until(lambda: pool.status()[1]["scrub"]["state"] == "finished", 60, "the end of the scrub")
    check(pool.root)
    check()
    dynamicfs("disk", "pause", pool.root, check=True)
    dynamicfs("disk", "remove", pool.root, "2", check=True)
    check(pool.root)
    dynamicfs("disk", "keep", pool.root, "2", check=True)
    pool.umount()
    pool.disks[1].take_away()
    pool.mount()
    check(pool.root)
    pool.kill()
    check()
    # Why a disk has failed, and how fast a scrub or a copy is that runs, are not provoked here.
    unprovoked = (".reason", ".left_s", "rebuild.bytes_per_s", "rebuild.time_left_s")
    unmet = [key for key in schema.never_met() if not key.endswith(unprovoked)]
    expect_equal(unmet, [], "documented, and never seen")


@case(GROUP, "the checks of this group refuse what is wrong", where=NO_TREE)
def checks_bite(_bench):
    head = "# HELP a_total What\n# TYPE a_total counter\n"
    histogram = "# HELP h What\n# TYPE h histogram\n"
    exposition.parse(head + 'a_total{x="\\\\\\"\\n{},"} 1\n')
    exposition.parse(histogram + 'h_bucket{le="1"} 1\nh_bucket{le="+Inf"} 2\nh_sum 3\nh_count 2\n')
    for text in (
        "",
        head,
        head + "a_total 1",
        head + "a_total 1\n\n",
        head + "a_total  1\n",
        head + "a_total one\n",
        head + "a_total -1\n",
        head + "a_total 1\na_total 2\n",
        head + "b_total 1\n",
        head + 'a_total{x="a"b"} 1\n',
        head + 'a_total{x="\\a"} 1\n',
        head + 'a_total{x="a",} 1\n',
        head + 'a_total{x="1",x="2"} 1\n',
        head + 'a_total{0x="1"} 1\n',
        head + 'a_total{le="1"} 1\n',
        head + "a_total 1\n" + histogram + "h_count 1\n" + head + "a_total 2\n",
        "# TYPE a_total counter\na_total 1\n",
        "# HELP a What\n# TYPE a counter\na 1\n",
        "# HELP a_total What\n# TYPE a_total gauge\na_total 1\n",
        histogram + 'h_bucket{le="1"} 1\nh_sum 3\nh_count 1\n',
        histogram + 'h_bucket{le="1"} 2\nh_bucket{le="+Inf"} 1\nh_sum 3\nh_count 1\n',
        histogram + 'h_bucket{le="1"} 1\nh_bucket{le="+Inf"} 2\nh_sum 3\nh_count 1\n',
        histogram + 'h_bucket{le="+Inf"} 2\nh_count 2\n',
    ):
        try:
            exposition.parse(text)
        except exposition.Malformed:
            continue
        raise Failure(f"taken for valid: {text!r}")
    documented = {
        "type": "object",
        "required": ["a"],
        "additionalProperties": False,
        "properties": {"a": {"type": "integer", "minimum": 0}, "b": {"enum": ["x"]}},
    }
    schema = Schema(documented)
    schema.check({"a": 1})
    expect_equal(schema.never_met(), [".b"], "what was not met")
    for value in ({}, {"a": -1}, {"a": 1.5}, {"a": True}, {"a": 1, "b": "y"}, {"a": 1, "c": 1}, [1]):
        try:
            schema.check(value)
        except Violation:
            continue
        raise Failure(f"taken for documented: {value}")


# Prometheus


@case(GROUP, "status --prometheus is valid text, and says what --json says", where=OWN_POOLS)
def prometheus(bench):
    disks = [directory_disk(bench.scratch / name) for name in ('a "quoted" \\ {disk}', "b")]
    pool = bench.pool("pool", disks, "replica:2").mount()
    write_and_sync(pool.root)
    dynamicfs("sync", pool.root, check=True)
    _, status = pool.status()
    outcome = dynamicfs("status", pool.root, "--prometheus", check=True)
    families = exposition.parse(outcome.out)
    uuid = status["pool"]["uuid"]
    metrics = status["metrics"]

    def value(name, **labels):
        return exposition.value_of(families, f"dynamicfs_{name}", **labels)

    for family in families.values():
        expect(family.name.startswith("dynamicfs_"), f"family {family.name}")
    expect_equal(value("file_writes_total", pool=uuid), metrics["file_writes"], "writes")
    expect_equal(value("file_fsyncs_total", pool=uuid), metrics["file_fsyncs"], "syncs")
    expect_equal(value("file_fsync_latency_seconds_count", pool=uuid), metrics["file_fsyncs"], "timed syncs")
    total = status["histograms"]["file_fsync_latency_us"]["sum"] / 1e6
    found = value("file_fsync_latency_seconds_sum", pool=uuid)
    expect(abs(found - total) < 1e-9 * max(total, 1), f"{found} s of syncs, and {total} s in the JSON")
    expect_equal(
        value("disk_requests_completed_total", disk="1", **{"class": "write"}),
        metrics["disk1_write_completed"],
        "writes of disk 1",
    )
    expect_equal(value("pool_size_bytes"), status["pool"]["total_bytes"], "size")
    expect_equal(value("pool_state", state="healthy"), 1, "healthy")
    expect_equal(value("pool_state", state="degraded"), 0, "degraded")
    expect_equal(value("fuse_requests_total", operation="fsync"), metrics["fuse_requests_fsync"], "fsyncs")
    expect_equal(value("fuse_feature", feature=status["fuse"]["features"][0]), 1, "a feature")
    expect_equal(value("disk_info", disk="0", path=str(disks[0])), 1, "the disk with an odd name")
    everything = exposition.parse(dynamicfs("status", "--prometheus").out)
    expect_equal(exposition.value_of(everything, "dynamicfs_up", mountpoint=str(pool.root)), 1, "up")
    pool.kill()
    everything = dynamicfs("status", "--prometheus")
    expect_equal(everything.code, EXIT_NOT_MOUNTED, "exit code with a dead daemon")
    up = exposition.value_of(exposition.parse(everything.out), "dynamicfs_up", mountpoint=str(pool.root))
    expect_equal(up, 0, "up, of a dead daemon")


# --watch


@case(GROUP, "status --watch prints a block for each sample where it is no terminal, and a line with --json",
      where=OWN_POOLS)
def watch_piped(bench):
    pool = bench.pool("pool", images(bench, "a")).mount()
    write_and_sync(pool.root)
    outcome = dynamicfs("status", pool.root, "--watch", "0.2", "--count", "3", check=True)
    blocks = outcome.out.split("\n\npool ")
    expect_equal(len(blocks), 3, "blocks")
    expect("since the mount" in blocks[0] and "the last 0." in blocks[1], f"of what time: {outcome.out[:300]}")
    expect("\x1b" not in outcome.out, "escape sequences in a file")
    for words in ("[#", "(above 5 under load)", "(below 0.05)", "per s", str(pool.disks[0])):
        expect(words in outcome.out, f"no {words}: {blocks[0]}")
    lines = dynamicfs("status", "--watch=0.2", pool.root, "--count", "2", "--json", check=True).out.splitlines()
    expect_equal([json.loads(line)["pool"]["state"] for line in lines], ["healthy"] * 2, "states")
    lines = dynamicfs("status", "--count", "1", "--json", "--watch", pool.root, check=True).out.splitlines()
    expect_equal(len(lines), 1, "lines of --count 1, the mountpoint behind --watch")
    (line,) = dynamicfs("status", "--count", "1", "--json", "--watch").out.splitlines()
    expect(any(one["pool"]["uuid"] for one in json.loads(line)), "an array of pools")
    for words, sentence in (
        (("--watch", "0"), "0.1"),
        (("--watch", "soon"), "soon"),
        (("--watch="), "--watch needs seconds"),
        (("--watch", "1", "--count", "0"), "--count"),
        (("--count", "2"), "--watch"),
        (("--watch", "1", "--prometheus"), "--prometheus"),
        (("--json", "--prometheus"), "--prometheus"),
    ):
        words = (words,) if isinstance(words, str) else words
        expect_refusal(dynamicfs("status", pool.root, *words), EXIT_USAGE, sentence)
    pool.umount()


class Terminal:
    """A program on a terminal of its own, and all it has written there."""

    def __init__(self, rows, columns, *argv):
        self.primary, secondary = pty.openpty()
        self.resize(rows, columns)

        def take_terminal():
            os.setsid()
            fcntl.ioctl(secondary, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            [str(word) for word in argv],
            stdin=secondary,
            stdout=secondary,
            stderr=secondary,
            env={**os.environ, "TERM": "xterm"},
            preexec_fn=take_terminal,
        )
        os.close(secondary)
        self.written = ""

    def resize(self, rows, columns):
        fcntl.ioctl(self.primary, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press_ctrl_c(self):
        os.write(self.primary, b"\x03")

    def read(self):
        """Everything written so far."""
        while select.select([self.primary], [], [], 0)[0]:
            try:
                piece = os.read(self.primary, 1 << 16)
            except OSError:  # The program has ended, and nothing is left.
                break
            self.written += piece.decode()
        return self.written

    def screens(self):
        """What was shown, one text for each time; the last may be growing still."""
        return self.read().split("\x1b[H")[1:]

    def whole_screens(self):
        return [screen for screen in self.screens() if screen.endswith("\x1b[J")]

    def wait_for_screens(self, count):
        return wait_until(lambda: len(self.whole_screens()) >= count and self.whole_screens(), 30, f"{count} screens")

    def end(self):
        """Its exit code, and what it wrote behind the last screen."""
        deadline = time.monotonic() + 30
        while self.process.poll() is None:
            self.read()
            expect(time.monotonic() < deadline, "--watch does not end")
            time.sleep(0.02)
        words = self.read().rsplit("\x1b[J", 1)[-1]
        os.close(self.primary)
        return self.process.returncode, words


def expect_fits(screen, rows, columns):
    expect(screen.endswith("\x1b[J"), f"what was there before is not cleared: {screen!r}")
    lines = screen.removesuffix("\x1b[J").replace("\r", "").split("\n")
    expect(len(lines) <= rows, f"{len(lines)} lines on a terminal of {rows}")
    for line in lines[:-1]:
        expect(line.endswith("\x1b[K"), f"the rest of the line is not cleared: {line!r}")
    for line in lines:
        text = line.removesuffix("\x1b[K")
        expect(len(text) <= columns and "\x1b" not in text, f"a line of {len(text)} on {columns} columns: {text!r}")


@case(GROUP, "status --watch refreshes a terminal in place, follows its size, and ends by Ctrl-C with the code of status",
      where=OWN_POOLS)
def watch_terminal(bench):
    pool = bench.pool("pool", images(bench, "ab"), "replica:2").mount()
    terminal = Terminal(12, 60, binary(), "status", pool.root, "--watch", "0.2")
    for screen in terminal.wait_for_screens(3):
        expect_fits(screen, 12, 60)
    terminal.press_ctrl_c()
    expect_equal(terminal.end()[0], EXIT_HEALTHY, "exit code by Ctrl-C")
    pool.umount()
    pool.disks[1].take_away()
    pool.mount()
    terminal = Terminal(50, 200, binary(), "status", pool.root, "--watch", "3600")
    (screen,) = terminal.wait_for_screens(1)
    expect("disk-b.img) is missing" in screen, f"the problem is not shown: {screen}")
    # Drawn anew at once, though the next sample is an hour away.
    terminal.resize(9, 40)
    expect_fits(terminal.wait_for_screens(2)[1], 9, 40)
    expect(terminal.process.poll() is None, "ended when it was resized")
    terminal.process.send_signal(signal.SIGTERM)
    expect_equal(terminal.end()[0], EXIT_DEGRADED, "exit code of a degraded pool by SIGTERM")
    pool.umount()


@case(GROUP, "status --watch says so when the daemon goes away, and ends with 15", where=OWN_POOLS)
def watch_daemon_gone(bench):
    pool = bench.pool("pool", images(bench, "a")).mount()
    terminal = Terminal(40, 100, binary(), "status", pool.root, "--watch", "0.1")
    terminal.wait_for_screens(2)
    pool.umount()
    code, words = terminal.end()
    expect_equal(code, EXIT_NOT_MOUNTED, f"exit code after umount ({words})")
    expect(str(pool.root) in words.replace("\r\n", ""), f"the mountpoint is not named: {words!r}")
    pool.mount()
    terminal = Terminal(40, 100, binary(), "status", pool.root, "--watch", "0.1")
    terminal.wait_for_screens(2)
    pool.kill()
    code, words = terminal.end()
    expect_equal(code, EXIT_NOT_MOUNTED, f"exit code after the daemon's death ({words})")
    expect("is dead" in words, f"not said: {words!r}")


# Thresholds


@case(GROUP, "status --metrics shows what is healthy beside the figures, and the negotiated features", where=OWN_POOLS)
def metrics_screen(bench):
    pool = bench.pool("pool", images(bench, "a")).mount()
    outcome = dynamicfs("status", pool.root, "--metrics", check=True)
    for words in (
        r"lock_contention_ratio +0 +\(healthy below 0.05\)",
        r"group_commit_average +[0-9.]+ +\(healthy above 5 under load\)",
        r"disk0_queued +0 +\(healthy below 64\)",
        r"read_memory_waits +0 +\(healthy below 1 % of file_reads\)",
        r"negotiated:[\w\s]* writeback_cache",
    ):
        expect(re.search(words, outcome.out) is not None, f"no {words}: {outcome.out}")
    metrics = pool.metrics()
    shown = {line.split()[0] for line in outcome.out.splitlines() if line.startswith("  ")}
    expect_equal(sorted(set(metrics) - shown), [], "metrics that the screen does not show")
    pool.umount()


@case(GROUP, "requests that a disk has no slot for are counted as held back, by class", where=OWN_POOLS)
def held_back(bench):
    pool = bench.pool("pool", images(bench, "a"), options=["depth=2"]).mount()  # one slot for writes
    expect_equal(over_disks(pool.metrics(), "write_waits"), 0, "writes held back before there were any")

    def write(number):
        with open(pool.root / f"file {number}", "wb", buffering=0, opener=direct) as file:
            block = mmap.mmap(-1, MIB)
            for _ in range(4):
                file.write(block)

    processes = [multiprocessing.Process(target=write, args=(number,)) for number in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        expect_equal(process.exitcode, 0, "exit code of a writer")
    metrics = pool.metrics()
    held = metrics["disk0_write_waits"]
    expect(0 < held <= metrics["disk0_write_completed"], f"{held} writes held back")
    expect_equal(metrics["disk0_queued"], 0, "waiting when all is done")
    expect_equal(metrics["disk0_depth_max"], 2, "depth")
    pool.umount()


def direct(path, flags):
    return os.open(path, flags | os.O_DIRECT, 0o644)


# Figures beside those of others


class KnownWork:
    """A pool on loop devices, and one process that writes blocks of one file, directly."""

    def __init__(self, bench, redundancy):
        disks = [loop_disk(bench.scratch / f"{letter}.img", DISK_BYTES) for letter in "ab"]
        # No commit by the clock, and so no checkpoint, comes between.
        self.pool = bench.pool("pool", disks, redundancy, options=["commit_interval=300"]).mount()
        self.devices = [disk.path for disk in disks]
        self.file = os.open(self.pool.root / "file", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
        self.block = mmap.mmap(-1, BLOCK)  # page aligned
        self.block.write(bench.random_bytes(BLOCK))

    def write(self, count, sync):
        for index in range(count):
            os.pwrite(self.file, self.block, index * BLOCK)
            if sync:
                os.fdatasync(self.file)

    def settle(self):
        os.fsync(self.file)
        dynamicfs("sync", self.pool.root, check=True)

    @contextlib.contextmanager
    def counted(self):
        """Two dictionaries that hold, after the block, what status and the kernel have counted in it."""
        ours, kernel = {}, {}
        before, devices_before = self.pool.metrics(), disk_counters(self.devices)
        yield ours, kernel
        devices, after = disk_counters(self.devices), self.pool.metrics()
        kernel.update({name: devices[name] - devices_before[name] for name in devices})
        ours.update({name: after[name] - before.get(name, 0) for name in after})

    def close(self):
        os.close(self.file)
        self.pool.umount()


def over_disks(metrics, key):
    return sum(value for name, value in metrics.items() if re.fullmatch(rf"disk\d+_{key}", name))


@case(
    GROUP,
    "after N direct writes, and N more with fdatasync, status has counted what was done and what the disks counted",
    where=OWN_POOLS,
    needs=["loop devices"],
)
def known_work(bench):
    # Not so many that the log asks for a checkpoint, which would be counted too.
    count = 100 if bench.quick else 400
    for redundancy, copies in (("single", 1), ("replica:2", 2)):
        bench.scratch.joinpath(redundancy).mkdir()
        here = type(bench)(bench.workspace, bench.scratch / redundancy, quick=bench.quick, seed=bench.seed)
        work = KnownWork(here, redundancy)
        work.write(count, sync=False)
        work.settle()
        for sync in (False, True):
            with work.counted() as (ours, kernel):
                work.write(count, sync)
            what = f"of {count} writes{' and syncs' if sync else ''} on {redundancy}"
            expect_equal(ours["fuse_requests_write"], count, f"FUSE writes {what}")
            expect_equal(ours["file_writes"], count, f"file_writes {what}")
            expect_equal(ours["file_written_bytes"], count * BLOCK, f"file_written_bytes {what}")
            syncs = count if sync else 0
            expect_equal(ours.get("fuse_requests_fsync", 0), syncs, f"FUSE syncs {what}")
            expect_equal(ours["file_fsyncs"], syncs, f"file_fsyncs {what}")
            expect_equal(ours["group_commits"], syncs, f"group_commits of one writer {what}")
            expect_equal(over_disks(ours, "write_completed"), copies * count, f"data requests {what}")
            expect_equal(
                over_disks(ours, "device_written_bytes"), kernel["written_bytes"], f"bytes the disks took {what}"
            )
            flushes = over_disks(ours, "device_flushes")
            # The kernel counts a flush as a write too, but not the one behind a durable write.
            expect_equal(
                over_disks(ours, "device_writes") + flushes,
                kernel["writes"] + kernel["write_merges"],
                f"writes and flushes of the disks {what}",
            )
            if not any(int(Path(f"/sys/block/{disk.name}/queue/fua").read_text()) for disk in work.devices):
                flushes += over_disks(ours, "device_durable_writes")
            expect_equal(flushes, kernel["flushes"], f"flushes of the disks {what}")
            expect_equal(kernel["reads"], over_disks(ours, "device_reads"), f"reads of the disks {what}")
        work.close()


@case(
    GROUP,
    "the system calls that status counts are those that strace sees",
    where=OWN_POOLS,
    needs=["loop devices", "strace"],
)
def system_calls(bench):
    count = 100
    work = KnownWork(bench, "single")
    work.write(count, sync=True)
    work.settle()
    trace = Strace(work.pool.daemon_pid(), bench.scratch / "strace")
    with contextlib.ExitStack() as stack:
        ours, _ = stack.enter_context(work.counted())
        try:
            stack.enter_context(trace)
        except RuntimeError as refusal:
            raise Skip(str(refusal)) from refusal
        work.write(count, sync=True)
    # A thread is in a call when it is attached to, and in another when it is left.
    threads = 2 * len(work.devices) * work.pool.status()[1]["daemon"]["workers_per_disk"]
    told = over_disks(ours, "system_calls") + over_disks(ours, "polls")
    seen = trace.calls["io_uring_enter"] + trace.calls.get("fdatasync", 0)
    expect(abs(told - seen) <= threads, f"status tells of {told} calls, strace of {seen}: {trace.calls}")
    answers = trace.calls["writev"]
    requests = ours["fuse_requests_total"] - ours.get("fuse_requests_forget", 0)
    expect(abs(answers - requests) <= 2, f"status tells of {requests} requests, strace of {answers} answers")
    work.close()
