"""What a round of kills runs on: a pool drawn from the seed, and what must be true of it besides its files."""

import hashlib
import os
import random
import shutil
import subprocess
import time

from harness import die_with_parent, in_child, log, wait_until
from targets import (
    EXIT_DEGRADED,
    EXIT_HEALTHY,
    MIB,
    Pool,
    XfsTarget,
    binary,
    directory_disk,
    image_disk,
)

# Small, so that a few rounds fill a disk once and freed space is used again.
DISK_SIZES_MIB = (96, 128, 192, 320)
DIRECTORY_CHANCE = 0.25
ABSENT_DISK_CHANCE = 0.15

# A tight pool is filled up to this by a file that stays. What is freed is then soon needed again, and
# the pool lives with the space that waits for its release.
TIGHT_CHANCE = 0.3
TIGHT_DISK_MIB = 96
TIGHT_FREE_BYTES = 32 * MIB


class CrashPool:
    """A target with its disks and redundancy drawn from `rng`; everything lies below `directory`.

    tree           the target itself
    is_tight       hardly more space is free than the small workloads need
    usable_bytes   what was free before any workload came
    """

    def __init__(self, workspace, directory, kind, rng, may_be_tight):
        self.workspace = workspace
        self.directory = directory
        self.is_tight = kind == "pool" and may_be_tight and rng.random() < TIGHT_CHANCE
        self.usable_bytes = 0
        self._absent_disk = None
        self._ballast_hash = None
        self._ballast_seed = rng.random()
        if kind == "xfs":
            self.tree = self._in_child(lambda: XfsTarget(workspace, directory), 60)
        else:
            self.tree = self._draw_pool(rng)
            self._in_child(self._start, 120)
        if self.is_tight:
            self._ballast_hash = self._in_child(self._fill, 120)
        info = self._in_child(lambda: os.statvfs(self.tree.root)[:5], 30)
        self.usable_bytes = info[4] * info[1]

    def _in_child(self, work, timeout_s):
        return in_child(work, timeout_s, on_hang=self.workspace.wake_sleepers)

    def _draw_pool(self, rng):
        disks = []
        for number in range(rng.choice((1, 2, 2, 3, 3, 4))):
            name = self.directory / f"disk-{number}"
            if not self.is_tight and rng.random() < DIRECTORY_CHANCE:
                disks.append(directory_disk(name))
            else:
                size_mib = TIGHT_DISK_MIB if self.is_tight else rng.choice(DISK_SIZES_MIB)
                disks.append(image_disk(name.with_suffix(".img"), size_mib * MIB))
        choices = [f"replica:{copies}" for copies in (2, 2, 3) if copies <= len(disks)]
        redundancy = rng.choice(choices + ["single"])
        if redundancy != "single" and rng.random() < ABSENT_DISK_CHANCE:
            self._absent_disk = rng.choice(disks)
        return Pool(self.workspace, self.directory, disks, redundancy)

    def _start(self):
        self.tree.create()
        if self._absent_disk is not None:
            self._absent_disk.take_away()
        self.tree.mount()

    def _fill(self):
        """Writes the ballast and returns its hash."""
        info = os.statvfs(self.tree.root)
        rng = random.Random(self._ballast_seed)
        digest = hashlib.sha256()
        with open(self.tree.root / "ballast", "wb") as file:
            for _ in range((info.f_bavail * info.f_frsize - TIGHT_FREE_BYTES) // MIB):
                piece = rng.randbytes(MIB)
                digest.update(piece)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        return digest.hexdigest()

    def describe(self):
        absent = f", {self._absent_disk.path.name} absent" if self._absent_disk else ""
        return self.tree.describe() + absent + (", nearly full" if self.is_tight else "")

    def free_share(self):
        """How much of what the workloads may use is free, 0 to 1."""
        info = self._in_child(lambda: os.statvfs(self.tree.root)[:5], 30)
        return info[4] * info[1] / max(1, self.usable_bytes)

    def check(self):
        """Yields what is wrong with the pool as a whole; to be run in a child."""
        if self._ballast_hash is not None:
            content = (self.tree.root / "ballast").read_bytes()
            if hashlib.sha256(content).hexdigest() != self._ballast_hash:
                yield "the file that fills the pool has changed"
        if self.tree.kind != "dynamicfs":
            return
        code, status = self.tree.status()
        wanted = EXIT_HEALTHY if self._absent_disk is None else EXIT_DEGRADED
        if code != wanted:
            yield f"status exits {code}, expected {wanted}: {status['pool']}"
        errors = status["metrics"]["checksum_errors"]
        if errors:
            yield f"{errors} checksum errors without any damage to the disks"

    def kill_during_recovery(self, delay_s):
        """Starts a mount and kills it after `delay_s`, whatever it is doing by then."""
        disk = next(disk for disk in self.tree.disks if disk.path.exists())
        with open(self.directory / "killed-mount.log", "ab") as output:
            daemon = subprocess.Popen(
                [binary(), "mount", disk.path, self.tree.root, "--foreground"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=die_with_parent,
            )
        self.workspace.note_process(daemon.pid, below=self.directory)
        time.sleep(delay_s)
        daemon.kill()
        wait_until(lambda: daemon.poll() is not None, 30, "the end of a daemon killed in its start")
        log(f"second daemon killed {delay_s:.3f} s after its start")

    def copy_volumes(self):
        """Keeps the disks as the crash left them, for looking at a violation; one round's worth."""
        before = self.directory / "before-recovery"
        shutil.rmtree(before, ignore_errors=True)
        before.mkdir()
        for disk in getattr(self.tree, "disks", []):
            if disk.volume.exists():
                copy = [
                    "cp",
                    "--sparse=always",
                    "--reflink=auto",
                    disk.volume,
                    before / disk.path.name,
                ]
                subprocess.run(copy, check=True)

    def remove(self):
        """Unmounts, and deletes the disks."""
        self._in_child(self.tree.close, 120)
        self.workspace.remove(self.directory)

    def abandon(self):
        """Ends everything and leaves the disks as evidence."""
        self.workspace.release(self.directory)
