"""The conformance suite (tests/posix), on xfs and on pools: what differs is known, with a reason."""

import re
from pathlib import Path

from case import NO_TREE, case
from harness import Failure, command, expect
from targets import binary

GROUP = "posix"
TESTS = Path(__file__).resolve().parents[1]


@case(
    GROUP,
    "thousands of checks say what xfs says, but for the known differences",
    where=NO_TREE,
    needs=["root", "/dev/fuse"],
    timeout_s=420,
)
def suite(bench):
    build = Path(binary()).parents[1]
    program = build / "tests" / "posix" / "posix_suite"
    expect(program.exists(), f"{program} is not built: ninja -C {build} tests/posix/posix_suite")
    outcome = command(
        TESTS / "posix" / "run", "--build", build, "--work", bench.scratch / "run",
        check=False, timeout_s=400,
    )  # fmt: skip
    failures = [line for line in outcome.out.splitlines() if line.startswith("FAIL")]
    if outcome.code != 0 or failures:
        raise Failure(f"{len(failures)} failures: {'; '.join(failures[:20]) or outcome}")
    counts = re.search(r"(\d+) passed, (\d+) failed, (\d+) skipped\n$", outcome.out)
    expect(counts and int(counts[1]) > 5000, f"it does not say what it did: {outcome}")
