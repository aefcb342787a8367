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
import time
from dataclasses import dataclass, field

from crash_pool import CrashPool
from harness import Failure, Hang, Skip, die_with_parent, expect, in_child, log, require
from snapshot import expect_sound
from syscalls import fsync_path
from workload import EventLog, guarded, is_promise
from workloads_blocks import Blocks, Crowd, Direct
from workloads_names import Names, Replace
from workloads_programs import Cp, Ninja, Rsync, Tar
from workloads_records import GitCommits, SqliteDelete, SqliteWal
from workloads_shared import Append, Mapped

# These stay small, so they also run in pools that are nearly full.
SMALL_WORKLOADS = (Blocks, Direct, Crowd, Names, Replace, Mapped, Append)
WORKLOADS = SMALL_WORKLOADS + (Cp, Tar, Rsync, GitCommits, Ninja, SqliteDelete, SqliteWal)

FRESH_POOL_CHANCE = 0.15
NEW_INSTANCE_CHANCE = 0.15
SECOND_WORKLOAD_CHANCE = 0.5
SECOND_KILL_CHANCE = 0.2
CLEAN_REMOUNT_CHANCE = 0.15
# Below this share of free space all workloads start anew in an empty pool.
FREE_SHARE_MIN = 0.5


class Violation(Failure):
    """The tree is not what it may be after a crash."""


@dataclass
class Round:
    """What one round does, drawn from the seed, its number, and whether its pool is nearly full."""

    number: int
    rng: random.Random
    delay_s: float
    wants_fresh_pool: bool
    workloads: list = field(default_factory=list)

    def text(self):
        names = ", ".join(one.name for one in self.workloads) or "nothing yet"
        return f"{names}; killed after {self.delay_s:.3f} s"


class CrashRun:
    """Rounds on one kind of target, `pool` or `xfs`, all of it below `directory` of the workspace."""

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
        self.pool = None
        self.pool_round = 0  # the round that made the present pool
        self.instances = {}  # workload name -> instance
        self.passed = self.failed = 0
        self.materials = self._subdirectory("materials")

    def run(self, first_round=0, rounds=None, until=None, failures_max=1):
        """Runs so many rounds, or until the monotonic clock shows `until`; stops after
        `failures_max` violations in any case.
        """
        expect(self.choices, "no such workload on this machine")
        number = first_round
        while number - first_round != rounds and (until is None or time.monotonic() < until):
            self._count(number)
            number += 1
            if self.failed >= failures_max:
                break
        try:
            self._remove_pool()
        except Failure as failure:
            self.failed += 1
            self.say(f"FAIL at the end: the pool does not unmount: {failure}")
            self._abandon_pool()

    def _count(self, number):
        """Runs one round, says how it went, and counts it."""
        started = time.monotonic()
        plan = self._plan(number)
        try:
            self._round(plan)
        except Failure as failure:
            self.failed += 1
            self._report(plan, failure)
            self._abandon_pool()
        else:
            self.passed += 1
            self.say(f"ok   round {number}: {plan.text()} ({time.monotonic() - started:.1f} s)")

    def _plan(self, number):
        rng = random.Random(f"{self.seed}/round/{number}")
        delay_s = 0.02 * (self.delay_max_s / 0.02) ** rng.random()
        return Round(number, rng, delay_s, rng.random() < FRESH_POOL_CHANCE)

    def _draw_workloads(self, plan):
        """Every workload comes once in each run through the list; the order changes with the seed."""
        small = [one for one in self.choices if one in SMALL_WORKLOADS]
        choices = small if self.pool.is_tight else self.choices
        turn, place = divmod(plan.number, len(choices))
        order = random.Random(f"{self.seed}/order/{turn}").sample(choices, len(choices))
        plan.workloads = [order[place]]
        others = [one for one in choices if one is not order[place]]
        if plan.rng.random() < SECOND_WORKLOAD_CHANCE and others:
            plan.workloads.append(plan.rng.choice(others))

    def _round(self, plan):
        if plan.wants_fresh_pool:
            self._remove_pool()
        if self.pool is None:
            self._make_pool(plan.number)
        self._draw_workloads(plan)
        log(f"round {plan.number}: {plan.text()}")
        chosen = self._choose_instances(plan)
        trigger = self.pool.tree.crash_trigger()
        workers, logs = self._start(chosen, plan)
        time.sleep(plan.delay_s)
        killed_at = time.monotonic()
        trigger()
        self._await_workers(workers)
        if self.keep_before:
            self.pool.copy_volumes()
        if self.target == "pool" and plan.rng.random() < SECOND_KILL_CHANCE:
            self.pool.kill_during_recovery(plan.rng.uniform(0, 0.3))
        self._in_child(self.pool.tree.recover, 100)
        # An fsync of xfs can succeed while a shutdown throws away what it waited for.
        void_after = killed_at if self.target == "xfs" else None
        self._verify(
            {name: _sort_out(EventLog.read(path), killed_at, void_after) for name, path in logs}
        )
        if plan.rng.random() < CLEAN_REMOUNT_CHANCE:
            self._in_child(self.pool.tree.remount, 150)
            self._verify({})

    def _in_child(self, work, timeout_s):
        return in_child(work, timeout_s, on_hang=self.workspace.wake_sleepers)

    def _subdirectory(self, *parts):
        return self.workspace.directory(self.directory.relative_to(self.workspace.path), *parts)

    # The pool

    def _make_pool(self, number):
        self.pool_round = number
        self.instances = {}
        self.pool = CrashPool(
            self.workspace,
            self._subdirectory(f"pool-{number}"),
            self.target,
            random.Random(f"{self.seed}/pool/{number}"),
            may_be_tight=any(one in SMALL_WORKLOADS for one in self.choices),
        )
        self.say(f"     round {number}: new pool, {self.pool.describe()}")

    def _remove_pool(self):
        if self.pool is not None:
            self.pool.remove()
            self.pool = None

    def _abandon_pool(self):
        if self.pool is not None:
            self.pool.abandon()
            self.pool = None

    # The workloads

    def _choose_instances(self, plan):
        """The instances this round works on; those that are done with leave the tree first."""
        retired = [name for name in self.instances if plan.rng.random() < NEW_INSTANCE_CHANCE]
        if self.pool.free_share() < FREE_SHARE_MIN:
            retired = list(self.instances)
        for name in retired:
            self._in_child(lambda: shutil.rmtree(self._place(self.instances[name])), 120)
            del self.instances[name]
        for kind in plan.workloads:
            if kind.name not in self.instances:
                instance = kind(f"{kind.name}-{plan.number}", seed=plan.rng.getrandbits(63))
                self._in_child(lambda: self._make_directory(instance), 30)
                self.instances[kind.name] = instance
            self.instances[kind.name].prepare(self.materials)
        return [self.instances[kind.name] for kind in plan.workloads]

    def _place(self, instance):
        return os.path.join(self.pool.tree.root, instance.directory)

    def _make_directory(self, instance):
        os.mkdir(self._place(instance))
        fsync_path(self.pool.tree.root)

    def _start(self, chosen, plan):
        """Starts a process for each instance; returns their ids, and (name, log path) of each."""
        workers, logs = [], []
        for instance in chosen:
            name = f"round-{plan.number}-{instance.name}.jsonl"
            path = self._subdirectory(self.pool.directory.name, "events") / name
            logs.append((instance.name, path))
            rng = random.Random(plan.rng.random())
            pid = os.fork()
            if pid == 0:
                die_with_parent()
                events = EventLog(path)
                is_ordered = self.pool.tree.is_ordered
                guarded(
                    events, lambda: instance.run(self._place(instance), events, rng, is_ordered)
                )
                os._exit(0)
            workers.append(pid)
        return workers, logs

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
        """`events` of the workloads that ran; all others must find what they found last time."""
        problems, self.instances = self._in_child(lambda: self._look(events), 240)
        if problems:
            raise Violation("; ".join(problems[:12]))

    def _look(self, events):
        problems = []
        try:
            expect_sound(self.pool.tree.root)
        except Failure as failure:
            problems.append(str(failure))
        for name, instance in self.instances.items():
            here = self._place(instance)
            happened, errors = events.get(name, ([], []))
            problems += [f"{instance.directory}: before the crash: {error}" for error in errors]
            if not os.path.isdir(here):
                problems.append(f"{instance.directory} is missing")
                continue
            try:
                found = instance.verify(here, happened, self.pool.tree.is_ordered)
                problems += [f"{instance.directory}: {line}" for line in found]
            except OSError as error:
                problems.append(f"{instance.directory}: cannot be read: {error}")
        problems += self.pool.check()
        return problems, self.instances

    def _report(self, plan, failure):
        """Says what went wrong and how to have the same again."""
        first = self.pool_round if self.pool is not None else plan.number
        repeat = f"tools/soak --seed {self.seed} --first-round {first}"
        repeat += f" --rounds {plan.number - first + 1} --delay-max {self.delay_max_s:g}"
        if self.target != "pool":
            repeat += f" --target {self.target}"
        if len(self.choices) == 1:
            repeat += f" --workload {self.choices[0].name}"
        self.say(f"FAIL round {plan.number}: {plan.text()}: {failure}")
        if self.pool is not None:
            self.say(f"     pool made in round {first}: {self.pool.describe()}")
            self.say(f"     kept: {self.pool.directory}")
        self.say(f"     repeat: {repeat}")


def _is_possible(workload):
    try:
        require(*workload.needs)
        return True
    except Skip:
        return False


def _sort_out(events, killed_at, void_after=None):
    """(what happened, the errors that came before the crash and so were not caused by it).

    Promises made after `void_after` are left out.
    """
    happened = [
        event
        for when, event in events
        if event[0] != "error"
        and not (void_after is not None and when > void_after and is_promise(event))
    ]
    errors = [event[1] for when, event in events if event[0] == "error" and when < killed_at]
    return happened, errors
