"""Kill, recover, compare: rounds of work on a pool whose daemon dies at a random moment.

One round runs one or two workloads, kills the daemon with SIGKILL, mounts again and lets every
workload compare what is there with what it noted outside the pool. The pool then goes on to the
next round, so later rounds work on space that was used before; now and then a fresh one is made, on
other disks and with another redundancy. All choices follow from the seed; the moment of the kill
follows from it too, but what the daemon does by then varies from run to run, so repeating means
repeating often.
"""

import os
import random
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass

from harness import Failure, Hang, Skip, die_with_parent, expect, in_child, log, require, wait_until
from snapshot import expect_sound
from syscalls import fsync_path
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
from workload import EventLog, guarded, is_promise
from workloads_blocks import Blocks, Direct
from workloads_names import Names, Replace
from workloads_programs import Cp, Ninja, Rsync, Tar
from workloads_records import GitCommits, SqliteDelete, SqliteWal
from workloads_shared import Append, Mapped

WORKLOADS = (
    Blocks,
    Direct,
    Names,
    Replace,
    Mapped,
    Append,
    Cp,
    Tar,
    Rsync,
    GitCommits,
    Ninja,
    SqliteDelete,
    SqliteWal,
)

FRESH_POOL_CHANCE = 0.08
NEW_INSTANCE_CHANCE = 0.15
SECOND_WORKLOAD_CHANCE = 0.5
SECOND_KILL_CHANCE = 0.2
CLEAN_REMOUNT_CHANCE = 0.15
ABSENT_DISK_CHANCE = 0.15
USED_SHARE_MAX = 0.5


class Violation(Failure):
    """The tree is not what it may be after a crash."""


@dataclass
class Round:
    """What one round does, drawn from the seed and its number alone."""

    number: int
    workloads: list
    delay_s: float
    wants_fresh_pool: bool
    rng: random.Random

    def text(self):
        return f"{', '.join(one.name for one in self.workloads)}; killed after {self.delay_s:.3f} s"


class CrashRun:
    """Rounds on one kind of target (`pool` or `xfs`), everything below `directory` of the
    workspace.
    """

    def __init__(
        self,
        workspace,
        directory,
        seed,
        target="pool",
        only=None,
        delay_max_s=2.0,
        keep_before=False,
        say=print,
    ):
        self.workspace = workspace
        self.directory = directory
        self.seed = seed
        self.target = target
        self.choices = [one for one in WORKLOADS if only in (None, one.name) and _is_possible(one)]
        self.delay_max_s = delay_max_s
        self.keep_before = keep_before
        self.say = say
        self.tree = None
        self.pool_round = None  # the round that made the present pool
        self.absent_disk = None
        self.instances = {}  # workload name -> instance
        self.passed = self.failed = 0
        self.materials = workspace.directory(directory.relative_to(workspace.path), "materials")

    def run(self, first_round=0, rounds=None, until=None, failures_max=1):
        """Runs `rounds` rounds, or until the monotonic clock shows `until`, or `failures_max`
        violations.
        """
        expect(self.choices, "no such workload on this machine")
        number = first_round
        while (rounds is None or number < first_round + rounds) and (
            until is None or time.monotonic() < until
        ):
            started = time.monotonic()
            plan = self._plan(number)
            try:
                self._round(plan)
            except Failure as failure:
                self.failed += 1
                self._report(plan, failure)
                self._abandon()
                if self.failed >= failures_max:
                    break
            else:
                self.passed += 1
                self.say(f"ok   round {number}: {plan.text()} ({time.monotonic() - started:.1f} s)")
            number += 1
        try:
            self.close()
        except Failure as failure:
            self.failed += 1
            self.say(f"FAIL at the end: the pool does not unmount: {failure}")
            self._abandon()

    def close(self):
        """Unmounts and deletes the present pool; the next round makes a fresh one."""
        if self.tree is not None:
            self._in_child(self.tree.close, 120)
            self.workspace.remove(self.tree.directory)
            self.tree = None

    def _plan(self, number):
        rng = random.Random(f"{self.seed}/round/{number}")
        # Every workload comes once in each run through the list; the order changes with the seed.
        turn, place = divmod(number, len(self.choices))
        order = random.Random(f"{self.seed}/order/{turn}").sample(self.choices, len(self.choices))
        workloads = [order[place]]
        if len(self.choices) > 1 and rng.random() < SECOND_WORKLOAD_CHANCE:
            workloads.append(rng.choice([one for one in self.choices if one is not workloads[0]]))
        delay_s = 0.02 * (self.delay_max_s / 0.02) ** rng.random()
        return Round(number, workloads, delay_s, rng.random() < FRESH_POOL_CHANCE, rng)

    def _in_child(self, work, timeout_s):
        return in_child(work, timeout_s, on_hang=self.workspace.wake_sleepers)

    def _round(self, plan):
        if self.tree is not None and plan.wants_fresh_pool:
            self.close()
        if self.tree is None:
            self._make_tree(plan)
        chosen = self._choose_instances(plan)
        logs = self.workspace.directory(
            self.tree.directory.relative_to(self.workspace.path), "events"
        )
        log(f"round {plan.number}: {plan.text()}")
        trigger = self.tree.crash_trigger()
        workers, paths = self._start(chosen, logs, plan)
        time.sleep(plan.delay_s)
        killed_at = time.monotonic()
        trigger()
        self._await_workers(workers)
        if self.keep_before:
            self._copy_volumes()
        if self.tree.kind == "dynamicfs" and plan.rng.random() < SECOND_KILL_CHANCE:
            self._kill_during_recovery(plan.rng.uniform(0, 0.3))
        self._in_child(self.tree.recover, 100)
        is_late_promise_void = (
            self.tree.kind == "xfs"
        )  # Its fsync can succeed while a shutdown throws the log away.
        events = {
            name: _sort_out(EventLog.read(path), killed_at, is_late_promise_void)
            for name, path in paths.items()
        }
        self._verify(events)
        if plan.rng.random() < CLEAN_REMOUNT_CHANCE:
            self._in_child(self.tree.remount, 150)
            self._verify({})

    # The target

    def _make_tree(self, plan):
        rng = random.Random(f"{self.seed}/pool/{plan.number}")
        self.pool_round = plan.number
        self.instances = {}
        self.absent_disk = None
        directory = self.workspace.directory(
            self.directory.relative_to(self.workspace.path), f"pool-{plan.number}"
        )
        if self.target == "xfs":
            self.tree = self._in_child(lambda: XfsTarget(self.workspace, directory), 60)
            return
        count = rng.choice((1, 2, 2, 3, 3, 4))
        disks = []
        for number in range(count):
            if rng.random() < 0.25:
                disks.append(directory_disk(directory / f"disk-{number}"))
            else:
                disks.append(
                    image_disk(
                        directory / f"disk-{number}.img", rng.choice((256, 320, 512, 768)) * MIB
                    )
                )
        redundancy = rng.choice(
            [f"replica:{copies}" for copies in (2, 2, 3) if copies <= count] + ["single"]
        )
        if redundancy != "single" and rng.random() < ABSENT_DISK_CHANCE:
            self.absent_disk = rng.choice(disks)
        self.tree = Pool(self.workspace, directory, disks, redundancy)
        self._in_child(self.tree.create, 60)
        if self.absent_disk is not None:
            self.absent_disk.take_away()
        self._in_child(self.tree.mount, 60)
        absent = f" with {self.absent_disk} absent" if self.absent_disk else ""
        self.say(f"     round {plan.number}: new pool, {self._describe()}{absent}")

    def _describe(self):
        if self.absent_disk is None:
            return self.tree.describe()
        kinds = ", ".join(disk.path.name for disk in self.tree.disks)
        return f"{self.tree.redundancy} on {kinds}"

    def _kill_during_recovery(self, delay_s):
        """Starts a mount and kills it after `delay_s`, whatever it is doing by then."""
        disk = next(disk for disk in self.tree.disks if disk.path.exists())
        with open(self.tree.directory / "killed-mount.log", "ab") as output:
            daemon = subprocess.Popen(
                [binary(), "mount", disk.path, self.tree.root, "--foreground"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=die_with_parent,
            )
        self.workspace.note_process(daemon.pid, below=self.tree.directory)
        time.sleep(delay_s)
        daemon.kill()
        wait_until(
            lambda: daemon.poll() is not None, 30, "the end of a daemon killed while it mounts"
        )
        log(f"second daemon killed {delay_s:.3f} s after its start")

    def _copy_volumes(self):
        """Keeps the disks as the crash left them, for looking at a violation; one round's worth."""
        before = self.tree.directory / "before-recovery"
        shutil.rmtree(before, ignore_errors=True)
        before.mkdir()
        for disk in getattr(self.tree, "disks", []):
            if disk.volume.exists():
                subprocess.run(
                    [
                        "cp",
                        "--sparse=always",
                        "--reflink=auto",
                        disk.volume,
                        before / disk.path.name,
                    ],
                    check=True,
                )

    # The workloads

    def _choose_instances(self, plan):
        """The instances this round works on; those that are done with leave the tree first."""
        retired = [name for name in self.instances if plan.rng.random() < NEW_INSTANCE_CHANCE]
        info = self._in_child(lambda: os.statvfs(self.tree.root)[:5], 30)
        if info[3] < info[2] * (1 - USED_SHARE_MAX):
            retired = list(self.instances)
        for name in retired:
            self._in_child(
                lambda: shutil.rmtree(os.path.join(self.tree.root, self.instances[name].directory)),
                120,
            )
            del self.instances[name]
        for kind in plan.workloads:
            if kind.name not in self.instances:
                instance = kind(f"{kind.name}-{plan.number}", seed=plan.rng.getrandbits(63))
                self._in_child(lambda: self._make_directory(instance.directory), 30)
                self.instances[kind.name] = instance
            self.instances[kind.name].prepare(self.materials)
        return [self.instances[kind.name] for kind in plan.workloads]

    def _make_directory(self, name):
        os.mkdir(os.path.join(self.tree.root, name))
        fsync_path(self.tree.root)

    def _start(self, chosen, logs, plan):
        workers, paths = [], {}
        for instance in chosen:
            path = paths[instance.name] = logs / f"round-{plan.number}-{instance.name}.jsonl"
            seed = plan.rng.random()
            pid = os.fork()
            if pid == 0:
                die_with_parent()
                events = EventLog(path)
                here = os.path.join(self.tree.root, instance.directory)
                guarded(
                    events,
                    lambda: instance.run(here, events, random.Random(seed), self.tree.is_ordered),
                )
                os._exit(0)
            workers.append(pid)
        return workers, paths

    def _await_workers(self, workers):
        """The workers fail when the daemon is gone; one that does not is stuck in the dead mount."""
        deadline = time.monotonic() + 30
        pending = set(workers)
        while pending and time.monotonic() < deadline:
            pending -= {pid for pid in pending if os.waitpid(pid, os.WNOHANG)[0]}
            time.sleep(0.005)
        for pid in pending:
            os.kill(pid, signal.SIGKILL)
        if pending:
            self.workspace.wake_sleepers()
            raise Hang(f"{len(pending)} processes still wait for the mount 30 s after the crash")

    def _verify(self, events):
        """`events` of the workloads that ran; all others must find exactly what they found last
        time.
        """
        problems, self.instances = self._in_child(lambda: self._look(events), 240)
        if problems:
            raise Violation("; ".join(problems[:12]))

    def _look(self, events):
        problems = []
        try:
            expect_sound(self.tree.root)
        except Failure as failure:
            problems.append(str(failure))
        for name, instance in self.instances.items():
            here = os.path.join(self.tree.root, instance.directory)
            happened, errors = events.get(name, ([], []))
            problems += [f"{instance.directory}: before the crash: {error}" for error in errors]
            if not os.path.isdir(here):
                problems.append(f"{instance.directory} is missing")
                continue
            try:
                problems += [
                    f"{instance.directory}: {line}"
                    for line in instance.verify(here, happened, self.tree.is_ordered)
                ]
            except OSError as error:
                problems.append(f"{instance.directory}: cannot be read: {error}")
        if self.tree.kind == "dynamicfs":
            problems += self._look_at_status()
        return problems, self.instances

    def _look_at_status(self):
        code, status = self.tree.status()
        wanted = EXIT_HEALTHY if self.absent_disk is None else EXIT_DEGRADED
        if code != wanted:
            yield f"status exits {code}, expected {wanted}: {status['pool']}"
        if status["metrics"]["checksum_errors"]:
            yield f"{status['metrics']['checksum_errors']} checksum errors without any damage to the disks"

    # Violations

    def _report(self, plan, failure):
        rounds = plan.number - self.pool_round + 1 if self.pool_round is not None else 1
        first = plan.number - rounds + 1
        target = "" if self.target == "pool" else f" --target {self.target}"
        chosen = f" --workload {self.choices[0].name}" if len(self.choices) == 1 else ""
        self.say(f"FAIL round {plan.number}: {plan.text()}: {failure}")
        self.say(
            f"     seed {self.seed}, pool of round {first}: {self._describe() if self.tree else 'none'}"
        )
        self.say(
            f"     repeat: tools/soak --seed {self.seed} --first-round {first} --rounds {rounds}{target}{chosen}"
        )
        self.say(f"     kept: {self.tree.directory if self.tree else self.directory}")

    def _abandon(self):
        """Leaves the disks as evidence and goes on with a fresh pool."""
        if self.tree is not None:
            tree, self.tree = self.tree, None
            self.workspace.release(tree.directory)


def _is_possible(workload):
    try:
        require(*workload.needs)
        return True
    except Skip:
        return False


def _sort_out(events, killed_at, is_late_promise_void):
    """(what happened, the errors that came before the crash and so were not caused by it)."""
    happened = [
        event
        for when, event in events
        if event[0] != "error"
        and not (is_late_promise_void and when > killed_at and is_promise(event))
    ]
    errors = [event[1] for when, event in events if event[0] == "error" and when < killed_at]
    return happened, errors
