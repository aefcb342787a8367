"""The crash oracle as cases: that it finds damage, and that a pool gives it nothing to find."""

from case import CRASHABLE, NO_TREE, OWN_POOLS, case
from cases_command import two_images
from crash import CrashRun
from harness import expect, log
from self_test import run_self_test
from syscalls import fsync_tree

GROUP = "crash"


@case(
    GROUP,
    "the oracle finds every kind of damage that is done to it on purpose",
    where=NO_TREE,
    timeout_s=200,
)
def oracle_bites(bench):
    problems = run_self_test(bench.scratch, log)
    expect(not problems, "; ".join(problems))


@case(
    GROUP,
    "to the oracle, the tree of a daemon that is dead is not an empty one that is durable",
    where=OWN_POOLS,
)
def dead_tree_is_not_durable(bench):
    pool = bench.pool("pool", two_images(bench)).mount()
    tree = pool.root / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(b"content")
    fsync_tree(tree)
    pool.kill()
    try:
        fsync_tree(tree)
    except OSError:
        pass
    else:
        expect(False, "fsync_tree of a dead mount succeeded")
    pool.mount()
    pool.umount()


@case(
    GROUP,
    "killed at any moment, a pool keeps what was fsynced and shows nothing foreign, stale or half",
    where=CRASHABLE,
    timeout_s=1200,
)
def rounds_of_kills(bench):
    rounds = 20 if bench.quick else 60
    texts = []

    def say(text):
        texts.append(text)
        log(text)

    run = CrashRun(
        bench.workspace,
        bench.scratch,
        seed=bench.seed,
        target=bench.target,
        delay_max_s=1.0 if bench.quick else 2.0,
        say=say,
    )
    run.run(rounds=rounds)
    expect(run.failed == 0, " ".join(texts[-4:]))
    expect(run.passed == rounds, f"only {run.passed} rounds ran")
