"""What the crash oracle asks of a workload, and the log that survives the crash.

A workload runs in a child process inside the mount and writes to a log outside it what it is about
to do and, after an fsync has returned, what is durable from then on. The log is the manifest: after
the crash verify() holds the tree against it, and what was found becomes the state the next round
starts from.
"""

import json
import os
import random
import time

from harness import Hang, command, die_with_parent


class EventLog:
    """Lines of JSON, each written by one system call, so a killed writer leaves whole lines."""

    def __init__(self, path):
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, *event):
        os.write(self._fd, json.dumps((time.monotonic(), event)).encode() + b"\n")

    @staticmethod
    def read(path):
        """All whole events, as pairs of when and what."""
        try:
            with open(path, encoding="utf-8") as file:
                return [json.loads(line) for line in file if line.endswith("\n")]
        except FileNotFoundError:
            return []


def is_promise(event):
    """Whether an event says that something is durable, and not just about to be done."""
    return any(word in event[0] for word in ("durable", "exists", "committed", "gone"))


def guarded(log, work):
    """Runs `work()`; an error that ends it goes to the log, to be judged by whether the crash
    caused it.
    """
    try:
        work()
    except (Exception, SystemExit) as error:
        log.write("error", f"{type(error).__name__}: {error}")


def in_two_processes(work, log, rng):
    """Calls work(number, rng) in this process with number 0 and in a second one with 1."""
    seeds = [rng.random(), rng.random()]
    child = os.fork()
    if child == 0:
        die_with_parent()
        guarded(log, lambda: work(1, random.Random(seeds[1])))
        os._exit(0)
    work(0, random.Random(seeds[0]))
    os.waitpid(child, 0)


class ProgramFailed(Exception):
    """A program that the workload ran ended with an error; after the crash that is no news."""


class Workload:
    """One workload in one directory of the tree, over any number of rounds.

    Instances travel between processes by pickle: run() works on a copy, and only verify(), which
    sees the log, changes what is known.
    """

    name = ""
    needs = ()
    self_test_s = 0.5  # How long a run must last to have made something durable on any disk.

    def __init__(self, directory, seed):
        self.directory = directory
        self.seed = seed

    def prepare(self, materials):
        """Makes, outside the mount, what run() needs; `materials` is a directory shared by all
        rounds.
        """

    def run(self, here, log, rng, is_ordered):
        """Works in directory `here` until it is killed or its share is done."""
        raise NotImplementedError

    def verify(self, here, events, is_ordered):
        """Yields one line for each violation, then takes what is there as the new state."""
        raise NotImplementedError

    def execute(self, *argv, timeout_s=60, **how):
        """Runs a program; ProgramFailed tells what it said."""
        try:
            outcome = command(*argv, check=False, timeout_s=timeout_s, **how)
        except Hang as hang:
            raise ProgramFailed(str(hang)) from hang
        if outcome.code != 0:
            raise ProgramFailed(str(outcome))
        return outcome


def read_file(path):
    with open(path, "rb") as file:
        return file.read()


def list_names(path):
    """The names in a directory, none if it is absent."""
    try:
        return set(os.listdir(path))
    except FileNotFoundError:
        return set()


def nearest(lines, count_max=5):
    """The first few of many lines, and how many there are."""
    lines = list(lines)
    more = [f"... and {len(lines) - count_max} more"] if len(lines) > count_max else []
    return lines[:count_max] + more
