"""Many small files: what the programs that walk over all of them say, and what they ask of the daemon."""

import os

from case import OWN_POOLS, case
from harness import command, expect, expect_equal
from targets import MIB, dynamicfs, image_disk

GROUP = "crowd"
BLOCK_BYTES = 4096
FOLDER_MODE, FILE_MODE = 0o750, 0o640


class Crowd:
    """Half of the files in one directory, the others 500 to a directory. One in five has 3 or 8 bytes, which a
    close hands over; the others are empty.
    """

    def __init__(self, root, count):
        self.root = root
        self.sizes = {
            f"{self._folder(number)}/file-{number:07}": number % 10 if number % 5 == 3 else 0
            for number in range(count)
        }
        self.folders = {name.split("/")[0] for name in self.sizes}
        self.size_bytes = sum(self.sizes.values())
        self.block_bytes = sum(BLOCK_BYTES for size in self.sizes.values() if size > 0)

    @staticmethod
    def _folder(number):
        return "large" if number % 2 == 0 else f"small-{number // 1000}"

    def make(self):
        for folder in self.folders:
            os.mkdir(self.root / folder, FOLDER_MODE)
        for name, size in self.sizes.items():
            fd = os.open(self.root / name, os.O_WRONLY | os.O_CREAT, FILE_MODE)
            if size > 0:
                os.write(fd, name.encode()[-size:])
            os.close(fd)

    def expect_contents(self, every):
        for name, size in list(self.sizes.items())[::every]:
            with open(self.root / name, "rb") as file:
                expect_equal(file.read(), name.encode()[len(name) - size :], name)

    def expect_sizes(self, found, what):
        """`found` are lines of a name behind the root and a size."""
        wanted = {f"{name} {size}" for name, size in self.sizes.items()}
        expect_equal(len(found), len(wanted), f"files that {what} lists")
        different = sorted(set(found) ^ wanted)
        expect(not different, f"{what}: {len(different)} lines differ, first {different[:3]}")


def _find(crowd):
    told = command("find", crowd.root, "-type", "f", "-printf", "%P %s\n", timeout_s=300).out
    crowd.expect_sizes(told.splitlines(), "find")


def _find_names(crowd):
    told = command("find", crowd.root, "-type", "f", "-name", "file-*", timeout_s=300).out
    expect_equal(len(told.splitlines()), len(crowd.sizes), "names that find lists")


def _list(crowd):
    told = command("ls", "-lR", crowd.root, timeout_s=300, env=os.environ | {"LC_ALL": "C"}).out
    found, folder = [], ""
    for line in told.splitlines():
        if line.endswith(":"):
            folder = os.path.relpath(line[:-1], crowd.root)
        elif line.startswith("-rw-r-----"):
            words = line.split()
            found.append(f"{folder}/{words[-1]} {words[4]}")
    crowd.expect_sizes(found, "ls -lR")


def _usage(crowd):
    """Of the files alone: what du adds for directories is as much with or without them."""
    apparent, blocks = (
        int(command("du", "-s", *how, crowd.root, timeout_s=300).out.split()[0])
        for how in (["--apparent-size", "-B1"], ["-B1"])
    )
    folders = [crowd.root] + [crowd.root / folder for folder in crowd.folders]
    infos = [os.lstat(folder) for folder in folders]
    expect_equal(apparent - sum(info.st_size for info in infos), crowd.size_bytes, "bytes that du adds")
    expect_equal(
        blocks - sum(info.st_blocks * 512 for info in infos), crowd.block_bytes, "blocks that du adds"
    )


def _counted(pool, program, crowd):
    """What `program`, run on a mount that has just been made, asked of the daemon, by kind of request."""
    pool.remount()
    before = pool.metrics()
    program(crowd)
    after = pool.metrics()
    kinds = {
        name.removeprefix("fuse_requests_"): value - before.get(name, 0)
        for name, value in after.items()
        if name.startswith("fuse_requests_") and name != "fuse_requests_total"
    }
    return {name: value for name, value in kinds.items() if value > 0}


def _inodes_used(pool):
    told = command("df", "--output=iused,used", "-B1", pool.root).out.splitlines()[1].split()
    return int(told[0]), int(told[1])


@case(
    GROUP,
    "find, du, df and ls -lR say of all files what was made, and ask for directories, not for each file",
    where=OWN_POOLS,
    timeout_s=1800,
)
def walks(bench):
    disks = [image_disk(bench.scratch / f"disk-{letter}.img", 2048 * MIB) for letter in "ab"]
    pool = bench.pool("pool", disks).mount()
    inodes_before, bytes_before = _inodes_used(pool)
    crowd = Crowd(pool.root, 5_000 if bench.quick else 200_000)
    crowd.make()
    dynamicfs("sync", pool.root, check=True)
    inodes, used_bytes = _inodes_used(pool)
    made = len(crowd.sizes) + len(crowd.folders)
    expect_equal(inodes - inodes_before, made, "inodes that df counts")
    expect(
        used_bytes - bytes_before >= crowd.block_bytes,
        f"df counts {used_bytes - bytes_before} bytes for {crowd.block_bytes} of data",
    )
    for program in (_find, _usage, _list, _find_names):
        asked = _counted(pool, program, crowd)
        # ls asks for the access control list of each file that it shows, or lists all attributes (Debian 13).
        for_files = 0
        if program is _list:
            for_files = asked.pop("getxattr", 0) + asked.pop("listxattr", 0)
        expect(
            for_files <= made + 10 and sum(asked.values()) < made / 10 + 10 * len(crowd.folders),
            f"{program.__name__} asked for {asked}, and {for_files} lists, with {made} files and directories",
        )
    crowd.expect_contents(every=97)
    pool.umount()
    dynamicfs("check", "--data", disks[0].path, check=True, timeout_s=200)
