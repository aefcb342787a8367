"""overlayfs of the kernel with its upper directory in a pool: what container engines do. It wants
O_TMPFILE, RENAME_WHITEOUT, attributes of trusted.* and types in directories, and says what it lacks.
"""

import os
import stat
from pathlib import Path

from case import OWN_POOLS, case
from harness import Skip, command, expect, expect_equal
from material import make_tree
from snapshot import expect_same, portable, snapshot
from targets import MIB, image_disk

GROUP = "overlay"


class _Overlay:
    """An overlay of `lower` (outside of the pool) and a directory of the pool."""

    def __init__(self, bench, options="redirect_dir=on,index=off,metacopy=off"):
        if "\toverlay\n" not in Path("/proc/filesystems").read_text():
            raise Skip("the kernel has no overlayfs")
        self.pool = bench.pool("pool", [image_disk(bench.scratch / "disk.img", 512 * MIB)]).mount()
        self.lower = bench.scratch / "lower"
        self.lower.mkdir()
        self.upper = self.pool.root / "upper"
        self.work = self.pool.root / "work"
        self.upper.mkdir()
        self.work.mkdir()
        self.root = bench.scratch / "merged"
        self.root.mkdir()
        self.options = options

    def mount(self):
        directories = f"lowerdir={self.lower},upperdir={self.upper},workdir={self.work}"
        # What it lacks it does not refuse but say to the kernel's log, and go on without.
        before = len(command("dmesg").out.splitlines())
        command("mount", "-t", "overlay", "-o", f"{directories},{self.options}", "none", self.root)
        said = [line for line in command("dmesg").out.splitlines()[before:] if "overlayfs:" in line]
        lacking = [line for line in said if "does not support" in line or "missing" in line]
        expect(not lacking, f"the upper directory will not do: {lacking}")
        return self

    def umount(self):
        command("umount", self.root)

    def remount(self):
        """All of it, the pool too."""
        self.umount()
        self.pool.remount()
        self.mount()


def _is_whiteout(path):
    info = os.lstat(path)
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


@case(
    GROUP,
    "an overlay over a pool shows a tree, its changes and what is gone, also after a remount",
    where=OWN_POOLS,
    needs=["root", "/dev/fuse"],
)
def changes(bench):
    overlay = _Overlay(bench)
    lower, root, upper = overlay.lower, overlay.root, overlay.upper
    for name in ("gone", "changed", "stays", "renamed"):
        (lower / name).write_text(f"{name} below")
    (lower / "directory" / "inner").mkdir(parents=True)
    (lower / "directory" / "inner" / "file").write_text("deep")
    (lower / "emptied").mkdir()
    (lower / "emptied" / "file").write_text("old")
    overlay.mount()
    os.unlink(root / "gone")
    with open(root / "changed", "a") as file:
        file.write(", and above")
    os.rename(root / "renamed", root / "renamed too")
    os.rename(root / "directory", root / "moved")
    (root / "emptied" / "file").unlink()
    (root / "emptied").rmdir()
    (root / "emptied").mkdir()
    (root / "emptied" / "new").write_text("new")
    (root / "fresh").write_text("fresh")

    def check(when):
        wanted = ["changed", "emptied", "fresh", "moved", "renamed too", "stays"]
        expect_equal(sorted(os.listdir(root)), wanted, f"names {when}")
        expect_equal((root / "changed").read_text(), "changed below, and above", f"changed {when}")
        expect_equal((root / "renamed too").read_text(), "renamed below", f"renamed {when}")
        expect_equal((root / "moved/inner/file").read_text(), "deep", f"the moved directory {when}")
        expect_equal(os.listdir(root / "emptied"), ["new"], f"the directory made anew {when}")
        for name in ("gone", "renamed", "directory"):
            expect(_is_whiteout(upper / name), f"no whiteout of {name} {when}")
        opaque = os.getxattr(upper / "emptied", "trusted.overlay.opaque")
        expect_equal(opaque, b"y", f"the mark of what hides all below {when}")
        expect_equal(
            os.getxattr(upper / "moved", "trusted.overlay.redirect"),
            b"directory",
            f"the mark of the directory that moved {when}",
        )

    check("at once")
    overlay.remount()
    check("after a remount")
    expect_equal((lower / "gone").read_text(), "gone below", "what lies below")
    overlay.umount()
    overlay.pool.umount()


@case(
    GROUP,
    "a tree that tar unpacks, changes and packs in an overlay over a pool is the same as elsewhere",
    where=OWN_POOLS,
    needs=["root", "/dev/fuse", "tar"],
    timeout_s=240,
)
def whole_tree(bench):
    overlay = _Overlay(bench)
    make_tree(overlay.lower / "tree", seed=5, with_specials=True)
    # overlayfs keeps one name of a file and asks FUSE whether it is still right: man/architecture.md.
    for name in (overlay.lower / "tree").rglob("hard-*"):
        name.unlink()
    plain = bench.scratch / "plain"
    command("cp", "-a", overlay.lower / "tree", plain)
    overlay.mount()
    merged = overlay.root / "tree"
    for tree in (plain, merged):
        _work_on(tree)
    expect_same(_comparable(plain), _comparable(merged), "the tree in the overlay")
    overlay.remount()
    expect_same(_comparable(plain), _comparable(merged), "the tree after a remount")
    archive = bench.scratch / "tree.tar"
    tar = ("tar", "--xattrs", "--xattrs-include=user.*", "--format=posix")
    command(*tar, "-cf", archive, "-C", overlay.root, "tree")
    out = overlay.root / "out"
    out.mkdir()
    command(*tar, "-xpf", archive, "-C", out)
    command(*tar, "--compare", "-f", archive, "-C", out)
    command("rm", "-rf", merged, out)
    expect_equal(os.listdir(overlay.root), [], "what is left when all is removed")
    expect(_is_whiteout(overlay.upper / "tree"), "no whiteout of the tree")
    overlay.umount()
    overlay.pool.umount()
    command("rm", "-rf", plain)


def _work_on(tree):
    """The same changes wherever; not of files with several names, of which an overlay changes one."""
    names = sorted(
        path
        for path in tree.rglob("*")
        if path.is_file() and not path.is_symlink() and path.stat().st_nlink == 1
    )
    for number, path in enumerate(names):
        if number % 5 == 0:
            path.unlink()
        elif number % 5 == 1:
            with open(path, "r+b") as file:
                file.write(b"changed in front")
        elif number % 5 == 2:
            path.rename(path.with_name(path.name + ".moved"))
        elif number % 5 == 3:
            path.chmod(0o640)
    for number, path in enumerate(sorted(one for one in tree.iterdir() if one.is_dir())):
        if number % 2 == 0:
            path.rename(path.with_name(path.name + " moved"))
    (tree / "new").mkdir()
    (tree / "new" / "file").write_text("new")


def _comparable(tree):
    entries = portable(snapshot(tree))
    for entry in entries.values():
        entry.pop("mtime_ns", None)  # Of what was changed just now.
    return entries
