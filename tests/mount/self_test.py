"""Does the crash oracle bite? Runs each workload on a plain directory, where nothing is lost, then
does one kind of damage at a time and checks that verify() names it.

A verifier that accepts everything would pass every round; this is what tells it from one that
works.
"""

import copy
import random
import shutil
import signal
import tempfile
from pathlib import Path

from damages import DAMAGES
from harness import Failure, Skip, command, in_child, require
from oracle import FileModel, sectors
from snapshot import expect_sound
from workload import EventLog, guarded


class Patient:
    """A workload that was stopped at some moment: its directory and log, copies of which are
    spoiled.
    """

    def __init__(self, kind, scratch, duration_s):
        self.scratch = scratch
        self.here = Path(tempfile.mkdtemp(prefix=f"{kind.name}-", dir=scratch))
        self.here.chmod(0o755)
        materials = scratch / "materials"
        materials.mkdir(exist_ok=True)
        self.workload = kind(kind.name, seed=77)
        self.workload.prepare(materials)
        log_path = self.here.with_suffix(".jsonl")
        in_child(lambda: self._run(log_path, duration_s), 60, on_hang=lambda: None)
        self.events = [event for _, event in EventLog.read(log_path) if event[0] != "error"]

    def _run(self, log_path, duration_s):
        """The alarm may fall anywhere, as the end of a daemon does for its clients."""

        def stop(_number, _frame):
            raise InterruptedError

        signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, duration_s)
        log = EventLog(log_path)
        guarded(log, lambda: self.workload.run(str(self.here), log, random.Random(3), True))

    def examine(self, damage=None):
        """What verify() says about a copy of the directory after `damage(here, events, workload)`."""
        here = self.scratch / "copy"
        shutil.rmtree(here, ignore_errors=True)
        command("cp", "-a", self.here, here)
        events = copy.deepcopy(self.events)
        workload = copy.deepcopy(self.workload)
        if damage is not None:
            damage(here, events, copy.deepcopy(self.workload))
        found = list(workload.verify(str(here), events, True))
        try:
            expect_sound(here)
        except Failure as failure:
            found.append(str(failure))
        return found


def _examine(patient, damage, kind, scratch):
    """A workload may have been stopped when what the damage needs was not there: then another one,
    which has run for longer."""
    for longer in (2, 4, 8):
        try:
            return patient.examine(damage)
        except (StopIteration, IndexError):
            patient = Patient(kind, scratch, kind.self_test_s * longer)
    return patient.examine(damage)


def run_self_test(scratch, say):
    """Returns what is wrong with the oracle; empty when it finds every damage and nothing else."""
    wrong = []
    for kind, damages in DAMAGES.items():
        try:
            require(*kind.needs)
        except Skip as skip:
            say(f"skip {kind.name}: {skip}")
            continue
        patient = Patient(kind, scratch, kind.self_test_s)
        false_alarms = patient.examine()
        if false_alarms:
            wrong.append(f"{kind.name}: alarm without damage: {false_alarms[0]}")
        for what, damage in damages.items():
            found = _examine(patient, damage, kind, scratch)
            if found:
                say(f"ok   {kind.name}: {what}: {found[0][:200]}")
            else:
                wrong.append(f"{kind.name}: not noticed: {what}")
    return wrong + _check_rules_of_order(say)


def _check_rules_of_order(say):
    """The two rules that need a certain order of operations, on a model alone."""
    wrong = []

    def judge(what, model, data, is_legal):
        problems = model.check(data, is_ordered=True)
        if bool(problems) == is_legal:
            wrong.append(
                f"rules of order: {what} is {'' if is_legal else 'not '}noticed: {problems[:1]}"
            )
        elif problems:
            say(f"ok   rules of order: {what}: {problems[0][:200]}")

    model = FileModel(session=1, file_id=1)
    model.write(0, 16)
    model.settle(1)
    model.truncate(8)
    model.write(0, 4)
    old, new = sectors(1, 1, 0, 16, 1), sectors(1, 1, 0, 4, 3)
    judge("the old file", model, old, True)
    judge("the file cut and overwritten", model, new + old[4 * 512 : 8 * 512], True)
    judge("what was cut off, beside what was written later", model, new + old[4 * 512 :], False)

    model = FileModel(session=1, file_id=2)
    model.write(0, 16)
    model.settle(1)
    model.write(4, 8, is_direct=True)
    old, new = sectors(1, 2, 0, 16, 1), sectors(1, 2, 4, 8, 2)
    judge("a direct write that happened", model, old[: 4 * 512] + new + old[12 * 512 :], True)
    judge("half a direct write", model, old[: 4 * 512] + new[: 4 * 512] + old[8 * 512 :], False)
    return wrong
