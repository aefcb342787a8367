"""How a case is declared, and what it is given."""

import os
import random
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

from harness import Workspace
from targets import Pool

# Where a case runs: in the tree that its group shares, on pools it makes itself, on targets it
# makes itself that must be able to crash, or on no mount at all.
SHARED_TREE = "shared tree"
OWN_POOLS = "own pools"
CRASHABLE = "targets that crash"
NO_TREE = "no tree"


@dataclass
class Case:
    group: str
    sentence: str
    run: Callable
    where: str = SHARED_TREE
    needs: tuple = ()
    timeout_s: float = 120
    closes_group: bool = False

    @property
    def name(self):
        return f"{self.group}: {self.sentence}"

    @property
    def slug(self):
        return re.sub(r"[^a-z0-9]+", "-", self.sentence.lower()).strip("-")[:60]


all_cases = []


def case(group, sentence, where=SHARED_TREE, needs=(), timeout_s=120, closes_group=False):
    """Declares a function as the case that shows `sentence`. A closing case runs whenever one of
    its group did.
    """

    def declare(run):
        all_cases.append(Case(group, sentence, run, where, tuple(needs), timeout_s, closes_group))
        return run

    return declare


@dataclass
class Bench:
    """What a case works with. Its own directories exist when it starts and are empty.

    tree     the shared target, or None
    dir      its directory inside the tree
    scratch  its directory outside every mount, for expectations and for pools of its own
    """

    workspace: Workspace
    scratch: Path
    tree: object = None
    dir: Path = None
    target: str = "pool"
    quick: bool = False
    seed: int = 1
    rng: random.Random = field(init=False)

    def __post_init__(self):
        self.rng = random.Random(self.seed)

    def pool(self, name, disks, redundancy=None, options=()):
        """A new pool over `disks`, created and not mounted."""
        return Pool(self.workspace, self.scratch / name, disks, redundancy, options).create()

    def write(self, name, data):
        """Writes a file of the case's directory and returns its path."""
        path = self.dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def random_bytes(self, length_bytes):
        return self.rng.randbytes(length_bytes)


def is_selected(one, pattern):
    return (
        not pattern
        or pattern.lower() in one.name.lower()
        or re.search(pattern, one.name) is not None
    )


def select(pattern):
    """The cases whose name holds `pattern` (text or regular expression), and what closes their
    groups.
    """
    chosen = [one for one in all_cases if is_selected(one, pattern)]
    groups = {one.group for one in chosen}
    return [one for one in all_cases if one in chosen or (one.closes_group and one.group in groups)]


def in_tree(one, bench, root):
    """Gives `bench` its directory below `root`; runs where the mount may already hang."""
    if root is not None and not one.closes_group:
        bench.dir = Path(root) / one.slug
        os.mkdir(bench.dir)
    return bench
