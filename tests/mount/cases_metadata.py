"""More files than the daemon may keep in memory: what has been evicted comes back as it was."""

import os
from pathlib import Path

from case import OWN_POOLS, case
from harness import expect, expect_equal, wait_until
from targets import MIB, dynamicfs, image_disk

GROUP = "metadata"
DISK_BYTES = 512 * MIB
# Inodes and names of so many files are some 9 MiB, and the least that a mount takes is 8.
FILES = 20_000
OPTIONS = ["metadata_memory=8M"]


class Crowd:
    """Many small files: one large directory, many of a size that is read as a whole, and of every
    kind of metadata a few. What should be there follows from the number of a file.
    """

    def __init__(self, root):
        self.root = Path(root)
        self.renamed = set()
        self.removed = set()

    def path(self, number):
        name = f"file {number}" + (" renamed" if number in self.renamed else "")
        folder = "large" if number % 2 else f"small {number // 200}"
        return self.root / folder / name

    @staticmethod
    def content(number):
        return b"" if number % 17 == 0 else b"content of file %d" % number

    @staticmethod
    def attributes(number):
        """Of some files: short ones, and values that take several entries of a run."""
        if number % 400 == 0:
            return {"user.long": b"%d." % number * 8000}
        return {"user.number": b"%d" % number} if number % 10 == 0 else {}

    @staticmethod
    def has_link(number):
        return number % 50 == 0

    def link(self, number):
        return self.root / "links" / f"hard {number}"

    def symlink(self, number):
        return self.root / "links" / f"symbolic {number}"

    def make(self):
        (self.root / "large").mkdir()
        (self.root / "links").mkdir()
        for number in range(FILES):
            path = self.path(number)
            if number % 200 == 0:
                path.parent.mkdir()
            path.write_bytes(self.content(number))
            for name, value in self.attributes(number).items():
                os.setxattr(path, name, value)
            if self.has_link(number):
                os.link(path, self.link(number))
                os.symlink(f"../{number}", self.symlink(number))

    def change(self):
        """Renames and removes files of which nothing need be in memory."""
        for number in range(3, FILES, 100):
            old = self.path(number)
            self.renamed.add(number)
            old.rename(self.path(number))
        for number in range(0, FILES, 250):
            self.path(number).unlink()
            self.removed.add(number)

    def verify(self, when, every=1):
        """All names; contents and attributes of one file in `every`."""
        names = {folder.name: set(os.listdir(folder)) for folder in self.root.iterdir() if folder.is_dir()}
        wanted = {folder: set() for folder in names}
        for number in range(FILES):
            path = self.path(number)
            linked = self.has_link(number)
            if linked:
                wanted["links"] |= {self.link(number).name, self.symlink(number).name}
                expect_equal(os.readlink(self.symlink(number)), f"../{number}", f"a link {when}")
            if number in self.removed:
                expect(not path.exists(), f"{path} was removed and is there {when}")
                path = self.link(number)
                if not linked:
                    continue
            else:
                wanted[path.parent.name].add(path.name)
            if number % every != 0:
                continue
            expect_equal(path.read_bytes(), self.content(number), f"{path} {when}")
            found = {name: os.getxattr(path, name) for name in os.listxattr(path)}
            expect_equal(found, self.attributes(number), f"attributes of {path} {when}")
            links = (number not in self.removed) + linked
            expect_equal(os.stat(path).st_nlink, links, f"links of {path} {when}")
        for folder, present in names.items():
            expect(present == wanted[folder], f"{folder} {when}: {sorted(present ^ wanted[folder])[:5]}")


class WithoutName:
    """Files that were removed while they are open, one of them with more than one window."""

    COUNT = 20

    def __init__(self, bench, root):
        self.contents = [bench.random_bytes(3 * MIB if number == 0 else 5000) for number in range(self.COUNT)]
        self.files = []
        for number, content in enumerate(self.contents):
            path = root / f"open {number}"
            path.write_bytes(content)
            self.files.append(os.open(path, os.O_RDWR))
            os.setxattr(path, "user.open", b"%d" % number)
            path.unlink()

    def verify(self, when):
        for number, (file, content) in enumerate(zip(self.files, self.contents)):
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            expect(os.pread(file, len(content) + 1, 0) == content, f"removed file {number} {when}")
            expect_equal(os.getxattr(file, "user.open"), b"%d" % number, f"its attribute {when}")
            expect_equal(os.fstat(file).st_nlink, 0, f"its links {when}")

    def overwrite(self):
        for number, file in enumerate(self.files):
            content = b"%d, written without a name" % number
            os.pwrite(file, content, 1000)
            os.fsync(file)
            self.contents[number] = (
                self.contents[number][:1000] + content + self.contents[number][1000 + len(content) :]
            )

    def close(self):
        for file in self.files:
            os.close(file)


def expect_evicted(pool, when):
    metrics = wait_until(
        lambda: (found := pool.metrics())["inodes_evicted"] > 0 and found, 20, f"an eviction {when}"
    )
    expect(metrics["inodes_in_memory"] < FILES, f"all are in memory {when}: {metrics['inodes_in_memory']}")
    return metrics


@case(
    GROUP,
    "what is evicted from memory is read back: names, contents, attributes, links, files without a name",
    where=OWN_POOLS,
    timeout_s=240,
)
def eviction(bench):
    disks = [image_disk(bench.scratch / f"disk-{letter}.img", DISK_BYTES) for letter in "ab"]
    pool = bench.pool("pool", disks, "replica:2", OPTIONS).mount()
    expect_equal(pool.status()[1]["daemon"]["metadata_memory_bytes"], 8 * MIB, "the option in the status")
    crowd = Crowd(pool.root)
    nameless = WithoutName(bench, pool.root)
    crowd.make()
    expect_evicted(pool, "while files are made")
    nameless.verify("when others were made")
    nameless.overwrite()
    crowd.verify("on the mount that made it", every=10)
    nameless.verify("when all was looked at")
    nameless.close()
    pool.remount()
    crowd.verify("after a remount")
    metrics = expect_evicted(pool, "when all was looked at")
    expect(metrics["inodes_loaded"] > FILES // 2, f"inodes_loaded: {metrics['inodes_loaded']}")
    nameless = WithoutName(bench, pool.root)
    crowd.change()
    crowd.verify("after changes", every=10)
    nameless.verify("after changes")
    dynamicfs("sync", pool.root, check=True)
    pool.kill()
    pool.mount()
    crowd.verify("after kill -9 and a mount")
    expect_evicted(pool, "after kill -9 and a mount")
    expect_equal(pool.status()[1]["recovery"]["orphans_removed"], WithoutName.COUNT, "orphans removed")
    pool.umount()
    dynamicfs("check", "--data", disks[0].path, check=True)
