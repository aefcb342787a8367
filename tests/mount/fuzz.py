"""Several processes do random operations through a mount and hold every answer against models in
memory (tests/fuzz), while the pool under them is scrubbed, loses a disk, lacks memory, or its
daemon is killed.

A variant says what happens to the pool; a round of it lets the processes work for a while, compares
everything, unmounts, has `check` look at the disks, mounts, and compares again. All choices of the
processes follow from the seed, each process has its own; how they meet does not, so repeating means
repeating often.
"""

import os
import random
import select
import subprocess
import time
from dataclasses import dataclass

from cases_disks import HostedDisk
from harness import Failure, die_with_parent, expect, wait_until
from targets import EXIT_DEGRADED, EXIT_HEALTHY, MIB, Pool, binary, dynamicfs, image_disk

# In the smaller one freed space is soon used again: the files may have 40 MiB at most.
DISK_BYTES = (96 * MIB, 384 * MIB)
# What a process says of a failure may be long: its operations.
REPORT_BYTES = 200_000
ANSWER_TIMEOUT_S = 100


def program():
    """The fuzzer's process, beside the dynamicfs program under test."""
    build = os.path.dirname(os.path.dirname(binary()))
    return os.path.join(build, "tests", "fuzz", "fuzz")


class Violation(Failure):
    """A process found what may not be. `report` is all it says."""

    def __init__(self, summary, report):
        super().__init__(summary)
        self.report = report


class Worker:
    """One process of the fuzzer, which works in a directory of the tree."""

    def __init__(self, words, directory, tree):
        self.words = words
        self._output = open(directory / f"{words[0]}-{words[-1]}.out", "wb")
        self.process = subprocess.Popen(
            [program(), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._output,
            cwd=tree,
            preexec_fn=die_with_parent,
        )
        self._received = b""

    def __str__(self):
        return f"fuzz {' '.join(self.words)}"

    def has_answered(self):
        return bool(select.select([self.process.stdout], [], [], 0)[0])

    def tell(self, command):
        try:
            self.process.stdin.write(f"{command}\n".encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # Its report is still to be read.

    def answer(self, timeout_s=ANSWER_TIMEOUT_S):
        """(word, steps) of its next line. Violation when it says that something is wrong."""
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._received:
            if not self._receive(deadline):
                raise Failure(f"`{self}` ended without an answer, exit {self.process.wait(30)}")
        line, _, self._received = self._received.partition(b"\n")
        word, _, rest = line.decode(errors="replace").partition(" ")
        if word == "FAIL":
            while self._receive(deadline) and len(self._received) < REPORT_BYTES:
                pass
            report = f"{rest}\n{self._received.decode(errors='replace')}\nit was `{self}`\n"
            raise Violation(rest, report)
        return word, int(rest)

    def _receive(self, deadline):
        ready, _, _ = select.select(
            [self.process.stdout], [], [], max(0, deadline - time.monotonic())
        )
        if not ready:
            raise Failure(f"`{self}` does not answer")
        piece = os.read(self.process.stdout.fileno(), 1 << 16)
        self._received += piece
        return piece

    def end(self):
        self.process.stdin.close()
        self.process.kill()
        self.process.wait(30)
        self.process.stdout.close()
        self._output.close()


@dataclass
class Variant:
    """What happens to a pool while the processes work on it."""

    name: str
    options: tuple = ()
    ballast: int = 0
    is_killed: bool = False
    is_scrubbed: bool = False
    loses_disk: bool = False
    needs: tuple = ()


VARIANTS = (
    Variant("plain"),
    Variant("uncached", options=("writeback=off",)),
    Variant("rings", options=("io_uring",), needs=("FUSE over io_uring",)),
    Variant("rings-kill", options=("io_uring",), is_killed=True, needs=("FUSE over io_uring",)),
    Variant("scrub", is_scrubbed=True),
    Variant("memory", options=("metadata_memory=8M",), ballast=20_000),
    Variant("kill", is_killed=True),
    Variant("memory-kill", options=("metadata_memory=8M",), ballast=20_000, is_killed=True),
    Variant("disk", loses_disk=True, needs=("xfs",)),
    Variant("disk-kill", loses_disk=True, is_killed=True, needs=("xfs",)),
)


class FuzzRun:
    """One variant on one pool, all of it below `directory` of the workspace."""

    def __init__(self, workspace, directory, variant, seed, round_s=5.0, say=print, damaged=None):
        self.workspace = workspace
        self.directory = directory
        self.variant = variant
        self.seed = seed
        self.rng = random.Random(f"{seed}/{variant.name}")
        self.round_s = round_s
        self.say = say
        self.damaged = damaged  # the kind of process that is to do wrong things
        self.steps = 0
        self.rounds = 0
        self._evicted = 0
        self._workers = []
        self._hosted = None
        self._is_pulled = self._is_back = False

    def run(self, until):
        """Rounds until the monotonic clock shows `until`, at least one. Raises Failure with the
        report and what repeats it.
        """
        try:
            self._start()
            while True:
                self._round()
                if time.monotonic() >= until:
                    break
            self._end_workers()
            self.pool.umount()
            self._check()
            if self.variant.ballast and not self.variant.is_killed:  # a new mount has little there
                expect(self._evicted > 0, "all metadata stayed in memory")
        except Violation as violation:
            path = self.directory / "report"
            path.write_text(violation.report)
            raise Failure(f"{violation} (report: {path}; {self._repeat()})") from violation
        except Failure as failure:
            raise Failure(f"{failure} ({self._repeat()})") from failure
        finally:
            self._end_workers()

    def _repeat(self):
        return f"repeat: tools/soak --fuzz 5 --variant {self.variant.name} --seed {self.seed}"

    # The pool

    def _start(self):
        variant = self.variant
        size_bytes = self.rng.choice(DISK_BYTES)
        disks = [image_disk(self.directory / f"disk-{name}.img", size_bytes) for name in "ab"]
        if variant.loses_disk:
            kind = self.rng.choice(("directory", "device"))
            self._hosted = HostedDisk(self.directory, "victim", kind)
            disks.append(self._hosted.disk)
        elif self.rng.random() < 0.5:
            disks.append(image_disk(self.directory / "disk-c.img", 2 * size_bytes))
        self.pool = Pool(self.workspace, self.directory, disks, "replica:2", variant.options)
        self.pool.create().mount()
        (self.directory / "workers").mkdir()
        try:
            for words in self._kinds():
                self._workers.append(Worker(words, self.directory / "workers", self.directory))
            for worker in self._workers:
                worker.answer()
        except Violation as violation:
            raise Violation(f"at the start: {violation}", violation.report) from violation

    def _kinds(self):
        """The words that each process is called with."""

        def words(kind, name, *more, shared=(0, 1)):
            tree = os.path.join(self.pool.root, name)
            seed = self.rng.getrandbits(48)
            more += ("--crash",) if self.variant.is_killed else ()
            more += ("--damaged",) if self.damaged == name else ()
            number = ("--workers", shared[1], "--memory", self.directory / f"{name}.memory")
            line = (kind, "--root", tree, *number, *more, "--seed", seed, "--worker", shared[0])
            return [str(word) for word in line]

        ballast = ("--ballast", self.variant.ballast) if self.variant.ballast else ()
        yield words("files", "files")
        yield words("files", "direct-files", "--exact")
        yield words("names", "names", *ballast)
        for number in range(2):
            yield words("shared", "shared", shared=(number, 2))
        for number in range(2):
            yield words("common", "common", shared=(number, 2))

    def _end_workers(self):
        for worker in self._workers:
            worker.end()
        self._workers = []

    def _check(self):
        """The pool is not mounted."""
        outcome = dynamicfs("check", "--data", self.pool.disks[0].path, timeout_s=120)
        # A disk that is back lacks what was written without it.
        wanted = EXIT_DEGRADED if self._is_pulled else EXIT_HEALTHY
        expect(outcome.code == wanted, f"check exits {outcome.code}: {outcome.text}")

    def _check_counters(self):
        metrics = self.pool.metrics()
        self._evicted += metrics["inodes_evicted"]
        if not self.variant.loses_disk:
            errors = metrics["checksum_errors"]
            expect(errors == 0, f"{errors} checksum errors without any damage to the disks")

    # A round

    def _round(self):
        started = time.monotonic()
        self.rounds += 1
        before = self.steps
        if self.variant.is_killed and self.rng.random() < 0.8:
            self._work_and_kill()
        else:
            self._work(self.round_s)
        self._all("verify", one_by_one=True)
        self._check_counters()
        self._remount()
        self._all("verify", one_by_one=True)
        took = f"{self.steps - before} steps ({time.monotonic() - started:.1f} s)"
        self.say(f"ok   {self.variant.name} round {self.rounds}: {took}")

    def _remount(self):
        self.pool.umount()
        if self.rng.random() < 0.3:
            self._check()
        if self._is_pulled and not self._is_back and not self.variant.is_killed:
            self._hosted.put_back()
            self._is_back = True
        self.pool.mount(disk=self.pool.disks[0])

    def _all(self, command, one_by_one=False):
        """Tells every process `command` and waits for them; returns what they answer."""
        answers = []
        if one_by_one:
            for worker in self._workers:
                worker.tell(command)
                answers.append(worker.answer())
        else:
            for worker in self._workers:
                worker.tell(command)
            answers = [worker.answer() for worker in self._workers]
        return answers

    def _count(self, answers):
        self.steps = sum(steps for _, steps in answers)

    def _work(self, seconds):
        for worker in self._workers:
            worker.tell(f"run {seconds:.3f}")
        end = time.monotonic() + seconds
        if self.variant.loses_disk and not self._is_pulled:
            time.sleep(seconds * self.rng.uniform(0.2, 0.7))
            self._pull()
        scrubs = 0
        while self.variant.is_scrubbed and time.monotonic() < end:
            self._scrub(end)
            scrubs += 1
        answers = [worker.answer() for worker in self._workers]
        expect(all(word == "ok" for word, _ in answers), f"the daemon died: {answers}")
        self._count(answers)

    def _pull(self):
        self._hosted.pull()
        self._is_pulled = True

    def _scrub(self, end):
        dynamicfs("scrub", "start", self.pool.root, check=True)

        def state():
            scrub = self.pool.status()[1]["scrub"]
            return scrub if scrub["state"] == "finished" or time.monotonic() > end else None

        found = wait_until(state, 120, "the end of a scrub", step_s=0.1)
        if found["state"] != "finished":
            dynamicfs("scrub", "cancel", self.pool.root)

    def _work_and_kill(self):
        trigger = self.pool.crash_trigger()
        seconds = 0.05 * (self.round_s / 0.05) ** self.rng.random()
        for worker in self._workers:
            worker.tell(f"run {seconds + 60:.3f}")
        if self.variant.loses_disk and not self._is_pulled:
            time.sleep(seconds * self.rng.random())
            self._pull()
        time.sleep(seconds)
        for worker in self._workers:
            if worker.has_answered():  # What it says is no consequence of the kill.
                raise Failure(f"before the kill `{worker}` says {worker.answer()}")
        trigger()
        self._count([worker.answer() for worker in self._workers])
        self.pool.mount(disk=self.pool.disks[0])
        self._all("recover", one_by_one=True)
