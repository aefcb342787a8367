"""Pools of dynamicfs on disks that the block layer slows down, and what is measured on them."""
import contextlib
import json
import os
import pathlib
import subprocess
import sys

import testbed
from testbed import MIB, run


class Throttle:
    """Limits on disks for the processes that are put into it; they hold until the session ends."""

    def __init__(self, stack, disks, bytes_per_s, operations_per_s=None):
        self.group = pathlib.Path(f"/sys/fs/cgroup/blkio/dynamicfs-bench-{os.getpid()}-{id(self):x}")
        if not self.group.parent.is_dir():
            sys.exit("the throttle needs control groups of version 1 at /sys/fs/cgroup/blkio")
        self.group.mkdir()
        stack.callback(self.remove)
        for disk in disks:
            device = os.stat(disk).st_rdev
            name = f"{os.major(device)}:{os.minor(device)}"
            for way in ("read", "write"):
                self.write(f"blkio.throttle.{way}_bps_device", f"{name} {bytes_per_s}")
                if operations_per_s:
                    self.write(f"blkio.throttle.{way}_iops_device", f"{name} {operations_per_s}")

    def write(self, file, text):
        (self.group / file).write_text(text)

    def add(self, pid):
        self.write("cgroup.procs", str(pid))

    def remove(self):
        for pid in (self.group / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                (self.group.parent / "cgroup.procs").write_text(pid)
        self.group.rmdir()


class Pool(testbed.Dynamicfs):
    """Ours on some of the disks, with mount options and a throttle for its daemon."""

    def __init__(self, bed, redundancy, disks, binary, options="", throttle=None):
        super().__init__(bed, redundancy, binary)
        self.disks, self.options, self.throttle = disks, options, throttle

    def format(self):
        for disk in self.disks:
            if os.path.isdir(disk):
                continue
            with open(disk, "r+b") as device:
                device.write(bytes(MIB))
                os.fsync(device.fileno())
        run(self.binary, "create", "--redundancy", self.redundancy, *self.disks)

    def mount(self):
        run(self.binary, "mount", self.disks[0], self.path, *(["-o", self.options] if self.options else []))
        if self.throttle:
            self.throttle.add(self.status()["daemon"]["pid"])

    def status(self):
        return json.loads(run(self.binary, "status", self.path, "--json", check=False).stdout)

    def metrics(self):
        return self.status()["metrics"]


def write_file(path, mib):
    run("dd", "if=/dev/urandom", f"of={path}", "bs=1M", f"count={mib}", "conv=fsync")


def random_reads(pool, file, seconds, depth=1, jobs=4, rate=None):
    """fio's latencies in milliseconds, and what happened to the reads.

    With a rate they come by themselves, whether those before have been answered or not, as long as one
    of the jobs is free. (A program that waits for each read; those that do not, share a queue of the
    kernel with what it writes back.)
    """
    done = run("fio", "--name=reads", f"--filename={pool.path / file}", "--rw=randread", "--bs=4k", "--direct=1",
               "--ioengine=psync" if rate else "--ioengine=io_uring", "--thread", f"--iodepth={depth}", f"--numjobs={jobs}", "--time_based",
               f"--runtime={seconds}", "--group_reporting", "--output-format=json", "--random_generator=tausworthe64",
               *([f"--rate_iops={rate // jobs}", "--rate_process=poisson"] if rate else []))
    job = json.loads(done.stdout[done.stdout.index("{"):])["jobs"][0]
    latency = job["read"]["clat_ns"]
    at = {name: latency["percentile"][key] / 1e6
          for name, key in (("p50", "50.000000"), ("p99", "99.000000"), ("p99.9", "99.900000"))}
    return {**at, "max": latency["max"] / 1e6, "reads": job["read"]["total_ios"], "errors": job["error"]}


class ThrottleForAll:
    """Limits on disks for everybody, kernel threads included; until the session ends."""

    def __init__(self, stack, disks, bytes_per_s):
        self.root = pathlib.Path("/sys/fs/cgroup/blkio")
        if not (self.root / "blkio.throttle.read_bps_device").exists():
            sys.exit("the throttle needs control groups of version 1 at /sys/fs/cgroup/blkio")
        self.names = [f"{os.major(os.stat(disk).st_rdev)}:{os.minor(os.stat(disk).st_rdev)}" for disk in disks]
        stack.callback(self.limit, 0)
        self.limit(bytes_per_s)

    def limit(self, bytes_per_s):
        for name in self.names:
            for way in ("read", "write"):
                (self.root / f"blkio.throttle.{way}_bps_device").write_text(f"{name} {bytes_per_s}")


def slow_disk(bed, arguments, backing, number):
    """The path of a disk that serves one transfer at a time."""
    mountpoint = bed.make_directory(f"slow-{number}")
    program = os.path.join(arguments.build, "tools", "bench_slow_disk")
    process = subprocess.Popen([program, backing, mountpoint, "1", "100", str(arguments.mb_per_s)], stdin=subprocess.DEVNULL)
    bed.stack.callback(process.wait)
    bed.stack.callback(testbed.unmount, mountpoint)
    testbed.wait_for(lambda: testbed.is_mounted(mountpoint), 10, "slow_disk")
    return os.path.join(mountpoint, "disk")
