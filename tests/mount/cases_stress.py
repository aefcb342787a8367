"""stress-ng's stressors of the class filesystem on a mount, each with its own verification."""

import re

from case import OWN_POOLS, case
from harness import command, expect, expect_equal, shown
from targets import MIB, dynamicfs, image_disk

GROUP = "stress"

# What is not run, and why.
EXCLUDED = {
    "bind-mount": "mounts over directories of the machine; stress-ng itself calls it pathological",
    "binderfs": "is about a file system of its own",
    "procfs": "reads /proc",
    "dup": "duplicates descriptors of /dev/null",
    "eventfd": "has no file",
    "fiemap": "the kernel has no FIEMAP on FUSE: it refuses the ioctl without asking the daemon",
    "io": "syncs every file system of the machine, also the broken ones of others, and fails with them",
    "verity": "the pool has checksums of its own and no FS_IOC_ENABLE_VERITY",
}
# Their defaults would fill the pool: 1 GiB each. (That of copy-file takes 128 MiB at least, and makes holes.)
SIZES = [
    word
    for name in ("fallocate", "hdd", "iomix", "sync-file")
    for word in (f"--{name}-bytes", "32m")
]
BESIDE_EACH_OTHER = 12


def _stressors():
    text = command("stress-ng", "--class", "filesystem?", check=False).text
    return [name for name in text.split(":", 1)[1].split() if name not in EXCLUDED]


def _run(names, seconds, directory):
    """Runs these beside each other; nothing may fail, skip itself or stay behind."""
    chosen = [word for name in names for word in (f"--{name}", "1")]
    told = command(
        "stress-ng", *chosen, *SIZES, "--timeout", seconds, "--verify", "--temp-path", directory,
        check=False, timeout_s=seconds + 90,
    )  # fmt: skip
    wrong = re.findall(r".*(?:fail:|error:|skipp|aborted).*", told.text)
    expect(not wrong, f"{' '.join(names)}: {shown('; '.join(wrong), 600)}")
    expect_equal(told.code, 0, f"exit code of stress-ng with {' '.join(names)}")


@case(
    GROUP,
    "stress-ng finds nothing wrong with any of its stressors of the class filesystem, nor does check",
    where=OWN_POOLS,
    needs=["stress-ng", "root"],
    timeout_s=1200,
)
def stressors(bench):
    disks = [image_disk(bench.scratch / f"disk-{letter}.img", 1024 * MIB) for letter in "ab"]
    pool = bench.pool("pool", disks, "replica:2", ["acl"]).mount()
    directory = pool.root / "stress"
    directory.mkdir()
    names = _stressors()
    expect(len(names) > 30, f"stress-ng knows the stressors {names}")
    together = BESIDE_EACH_OTHER if bench.quick else 1
    for first in range(0, len(names), together):
        _run(names[first : first + together], 2 if bench.quick else 10, directory)
    if not bench.quick:
        _run(names, 60, directory)
    expect_equal(list(directory.iterdir()), [], "what they left")
    code, status = pool.status()
    expect_equal((code, status["problems"]), (0, []), "exit code and problems of status")
    expect_equal(status["metrics"]["checksum_errors"], 0, "checksum errors")
    pool.umount()
    dynamicfs("check", "--data", disks[0].path, check=True, timeout_s=120)
