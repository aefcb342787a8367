"""The model-checking fuzzer, a minute for all kinds of pools; tools/soak --fuzz runs it longer."""

import os
import time

from case import OWN_POOLS, case
from fuzz import VARIANTS, FuzzRun, program
from harness import Failure, Skip, expect, log

GROUP = "fuzz"

_SENTENCES = {
    "plain": "plain: random operations of many processes agree with models, also after an unmount",
    "uncached": "uncached: the same on a mount without writeback cache",
    "rings": "rings: the same with requests through io_uring",
    "rings-kill": "rings-kill: and after kills of the daemon",
    "scrub": "scrub: the same while scrubs run",
    "memory": "memory: the same while metadata leaves memory and comes back",
    "kill": "kill: after kills of the daemon there is what was synced, and nothing half done",
    "memory-kill": "memory-kill: there is with little memory for metadata, too",
    "disk": "disk: the models hold while a disk of two copies fails, and when it is back",
    "disk-kill": "disk-kill: they hold after a failed disk and kills of the daemon",
}


def require_program():
    if not os.access(program(), os.X_OK):
        raise Skip(f"no {program()} on this machine; build it: ninja -C build tests/fuzz/fuzz")


def _agree(variant):
    @case(
        GROUP,
        _SENTENCES[variant.name],
        where=OWN_POOLS,
        needs=variant.needs,
        timeout_s=240,
    )
    def run(bench):
        require_program()
        duration_s = 2 if bench.quick else 30
        fuzz = FuzzRun(
            bench.workspace, bench.scratch, variant, bench.seed, 1.5 if bench.quick else 5, say=log
        )
        fuzz.run(until=time.monotonic() + duration_s)
        expect(fuzz.steps > 0, "no steps were made")

    return run


for _variant in VARIANTS:
    _agree(_variant)


@case(
    GROUP,
    "a wrong byte, a torn block and a lost operation are noticed, each by the process concerned",
    where=OWN_POOLS,
    timeout_s=240,
)
def bites(bench):
    require_program()
    for name in ("files", "direct-files", "names", "shared", "common"):
        directory = bench.scratch / name
        directory.mkdir()
        run = FuzzRun(bench.workspace, directory, VARIANTS[0], bench.seed, 1, say=log, damaged=name)
        try:
            run.run(until=time.monotonic() + 10)
        except Failure as failure:
            log(f"{name}: {failure}")
            expect(f"/{name}" in str(failure) or "names are there" in str(failure), str(failure))
        else:
            expect(False, f"what the process {name} did wrong was not noticed")
        bench.workspace.remove(directory)
