#!/usr/bin/env python3
"""Runs the mount tests: real programs, system calls, faults and kills on mounted pools.

Prints one line per case and at the end `N passed, N failed, N skipped`; exits 1 if a case failed. A
skip names the ability that the machine lacks. After a failure the workspace stays, with the log of
each case, the pools' disks and whatever the daemons wrote. DYNAMICFS_SEED in the environment changes
all random choices; it is printed with a failure.
"""

import argparse
import os
import signal
import sys
import time

import case as registry
import cases_archives
import cases_check
import cases_command
import cases_corruption
import cases_crash
import cases_crowd
import cases_data
import cases_disks
import cases_ends
import cases_erasure
import cases_faults
import cases_flags
import cases_fuzz
import cases_life
import cases_matrix
import cases_policy
import cases_metadata
import cases_metrics
import cases_names
import cases_nfs
import cases_options
import cases_overlay
import cases_posix
import cases_postgres
import cases_programs
import cases_rings
import cases_samba
import cases_stress
from case import CRASHABLE, NO_TREE, OWN_POOLS, SHARED_TREE, Bench
from fuse_rings import offered_if_possible
from harness import Failure, Hang, Skip, Workspace, command, in_child, log_to, require, shown
from targets import binary, make_shared_tree

# The groups in the order they run, quick ones that tell most first.
MODULES = (
    cases_names,
    cases_data,
    cases_command,
    cases_ends,
    cases_metadata,
    cases_flags,
    cases_metrics,
    cases_posix,
    cases_rings,
    cases_options,
    cases_overlay,
    cases_programs,
    cases_archives,
    cases_postgres,
    cases_samba,
    cases_erasure,
    cases_life,
    cases_matrix,
    cases_policy,
    cases_nfs,
    cases_stress,
    cases_crowd,
    cases_disks,
    cases_faults,
    cases_corruption,
    cases_check,
    cases_crash,
    cases_fuzz,
)


class Runner:
    def __init__(self, workspace, target, quick, seed):
        self.workspace = workspace
        self.target = target
        self.quick = quick
        self.seed = seed
        self.counts = {"ok": 0, "FAIL": 0, "skip": 0}
        self._tree = None
        self._tree_group = None
        self._trees_made = 0
        self._failed_groups = set()

    def run(self, one):
        """Runs a case and prints its line."""
        started = time.monotonic()
        log_path = self.workspace.directory("logs", one.group) / f"{one.slug}.log"
        log_to(log_path)
        self._leave_group_before(one)
        try:
            self._run_in_child(one)
        except Skip as skip:
            self._say("skip", f"{one.name}: {skip}")
        except Failure as failure:
            self._note_state_of_tree()
            self._failed_groups.add(one.group)
            why = shown(" ".join(str(failure).split()), 800)
            self._say("FAIL", f"{one.name}: {why} (log: {log_path})")
            if isinstance(failure, Hang):
                self._drop_tree(keep=True)
        else:
            self._say("ok", f"{one.name} ({time.monotonic() - started:.1f} s)")

    def _say(self, verdict, text):
        self.counts[verdict] += 1
        print(f"{verdict:<4} {text}", flush=True)

    def _run_in_child(self, one):
        self._require(one)
        scratch = self.workspace.directory(one.group, one.slug)
        bench = Bench(self.workspace, scratch, target=self.target, quick=self.quick, seed=self.seed)
        if one.where == SHARED_TREE:
            bench.tree = self._shared_tree(one)
        root = bench.tree.root if bench.tree else None
        try:
            in_child(
                lambda: one.run(registry.in_tree(one, bench, root)),
                one.timeout_s,
                on_hang=self.workspace.wake_sleepers,
            )
        except Failure:
            self.workspace.release(scratch)
            raise
        self.workspace.remove(scratch)

    def _require(self, one):
        if one.where == OWN_POOLS and self.target != "pool":
            raise Skip(f"a pool is needed, and the target is {self.target}")
        if one.where == CRASHABLE and self.target.startswith("dir:"):
            raise Skip("a plain directory cannot crash")
        if one.where in (OWN_POOLS, CRASHABLE) and self.target == "pool":
            require("/dev/fuse")
        if one.where != NO_TREE and self.target == "pool" and not os.access(binary(), os.X_OK):
            raise Failure(f"{binary()} is no program; build it, or name it with --binary")
        require(*one.needs)

    def _shared_tree(self, one):
        """The group's tree, made when its first case comes or when the last one broke it."""
        if self._tree is not None and not self._answers():
            self._drop_tree(keep=True)
        if self._tree is None:
            self._trees_made += 1
            name = f"tree-{one.group}-{self._trees_made}"
            self._tree = in_child(
                lambda: make_shared_tree(self.target, self.workspace, name),
                120,
                on_hang=self.workspace.wake_sleepers,
            )
            self._tree_group = one.group
        return self._tree

    def _answers(self):
        try:
            in_child(lambda: os.listdir(self._tree.root), 20, on_hang=self.workspace.wake_sleepers)
            return True
        except Failure:
            return False

    def _note_state_of_tree(self):
        if self._tree is not None and self._tree.kind == "dynamicfs":
            try:
                command(binary(), "status", self._tree.root, "--metrics", check=False, timeout_s=10)
            except Failure:
                pass

    def _leave_group_before(self, one):
        if self._tree is not None and self._tree_group != one.group:
            self._drop_tree(keep=self._tree_group in self._failed_groups)

    def _drop_tree(self, keep):
        if self._tree is None:
            return
        tree, self._tree = self._tree, None
        try:
            in_child(tree.close, 120, on_hang=self.workspace.wake_sleepers)
        except Failure as failure:
            print(f"note: {tree.root} does not close: {failure}", flush=True)
        if not keep and tree.kind != "dir":
            self.workspace.remove(tree.directory)

    def finish(self):
        self._drop_tree(keep=bool(self._failed_groups))


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", metavar="PATTERN", help="only cases whose name holds PATTERN")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument(
        "--quick", action="store_true", help="smaller sizes and fewer rounds, about six minutes"
    )
    parser.add_argument(
        "--binary",
        metavar="PATH",
        help="the dynamicfs program (default: $DYNAMICFS or build/tools)",
    )
    parser.add_argument(
        "--target",
        default="pool",
        metavar="pool|xfs|dir:PATH",
        help="what to run on; the others check the tests themselves",
    )
    parser.add_argument(
        "--keep", action="store_true", help="keep the workspace even if all is well"
    )
    return parser.parse_args()


def stop_on_signal(number, _frame):
    raise SystemExit(128 + number)


def main():
    arguments = parse_arguments()
    if arguments.binary:
        os.environ["DYNAMICFS"] = os.path.abspath(arguments.binary)
    order = [module.GROUP for module in MODULES]
    chosen = sorted(
        registry.select(arguments.only), key=lambda one: (order.index(one.group), one.closes_group)
    )
    if arguments.list:
        print("\n".join(one.name for one in chosen))
        return 0
    signal.signal(signal.SIGTERM, stop_on_signal)
    seed = int(os.environ.get("DYNAMICFS_SEED", "1"), 0)
    workspace = Workspace()
    runner = Runner(workspace, arguments.target, arguments.quick, seed)
    keep = True
    try:
        with offered_if_possible():
            for one in chosen:
                runner.run(one)
            runner.finish()
        keep = arguments.keep or runner.counts["FAIL"] > 0
    finally:
        log_to(None)
        workspace.release()
        if not keep:
            workspace.remove()
        else:
            workspace.collect_daemon_logs()
            print(f"workspace kept: {workspace.path}, DYNAMICFS_SEED={seed}", flush=True)
    counts = runner.counts
    print(f"{counts['ok']} passed, {counts['FAIL']} failed, {counts['skip']} skipped", flush=True)
    return 1 if counts["FAIL"] else 0


if __name__ == "__main__":
    sys.exit(main())
