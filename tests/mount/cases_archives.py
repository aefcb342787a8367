"""What root brings along when a machine moves: owners, devices, access control lists, holes, links."""

import os
import stat

from case import OWN_POOLS, case
from harness import command, expect, expect_equal
from material import make_tree
from snapshot import expect_same, portable, snapshot
from targets import MIB, dynamicfs, image_disk

GROUP = "archives"


def pool_with_acl(bench):
    disks = [image_disk(bench.scratch / f"disk-{letter}.img", 1024 * MIB) for letter in "ab"]
    return bench.pool("pool", disks, "replica:2", ["acl"]).mount()


def source_with_everything(bench):
    """On the file system of the workspace, which has lists as well, or nothing here means anything."""
    source = bench.scratch / "tree"
    paths = make_tree(source, seed=4, with_specials=True)
    folders = sorted({os.path.dirname(path) for path in paths})
    for number, path in enumerate(paths[::5]):
        command("setfacl", "-m", f"u:{1000 + number}:rw,g:{2000 + number}:r,m::rw", path)
        os.chown(path, 3000 + number, 4000 + number)
    for folder in folders[::2]:
        command("setfacl", "-m", "u:1001:rwx,d:u:1002:rx,d:g:2002:rwx", folder)
    os.mknod(source / "character", 0o640 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(source / "block", 0o660 | stat.S_IFBLK, os.makedev(7, 200))
    os.utime(source, ns=(10**18 + 3, 10**18 + 7))  # rsync takes times within a second for the same.
    os.setxattr(paths[1], "trusted.note", b"of root")
    os.setxattr(paths[2], "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    os.chmod(paths[3], 0o6755)
    return source


def access_lists(root):
    """Of every file, as getfacl prints them; snapshot() has the rest."""
    return sorted(command("getfacl", "-R", "-p", "-n", ".", cwd=root).out.split("\n\n"))


def _everything(root):
    """The times of links and of what holds no data depend on the program, not on the file system."""
    entries = portable(snapshot(root))
    for entry in entries.values():
        if entry["type"] not in "d-":
            del entry["mtime_ns"]
    return entries


def _expect_same_tree(source, copy, what):
    expect_same(_everything(source), _everything(copy), what)
    expect_equal(access_lists(copy), access_lists(source), f"access control lists of {what}")


@case(
    GROUP,
    "tar and rsync -aHAXS carry owners, devices, access control lists and attributes in and out unchanged",
    where=OWN_POOLS,
    needs=["root", "tar", "rsync", "setfacl"],
    timeout_s=200,
)
def carried(bench):
    pool = pool_with_acl(bench)
    source = source_with_everything(bench)
    archive, second, back = (bench.scratch / name for name in ("in.tar", "out.tar", "back"))
    tar = ("tar", "--xattrs", "--xattrs-include=*", "--acls", "--sparse", "--format=posix", "--numeric-owner")
    command(*tar, "-cf", archive, "-C", source, ".")
    (pool.root / "tar").mkdir()
    command(*tar, "-xpf", archive, "-C", pool.root / "tar")
    _expect_same_tree(source, pool.root / "tar", "what tar extracted")
    rsync = ("rsync", "-aHAXS", "--numeric-ids", "--itemize-changes", f"{source}/", f"{pool.root}/rsync/")
    command(*rsync)
    _expect_same_tree(source, pool.root / "rsync", "what rsync copied")
    pool.remount()
    expect_equal(command(*rsync).out, "", "what a second rsync transferred")
    for name in ("tar", "rsync"):
        _expect_same_tree(source, pool.root / name, f"{name} after a remount")
        expect(os.stat(pool.root / name / "sparse").st_blocks * 512 < MIB, f"the hole of {name} is filled")
    command(*tar, "--compare", "-f", archive, "-C", pool.root / "tar")
    command(*tar, "-cf", second, "-C", pool.root / "tar", ".")
    back.mkdir()
    command(*tar, "-xpf", second, "-C", back)
    _expect_same_tree(source, back, "what tar brought back")
    command("rsync", "-aHAXS", "--numeric-ids", f"{pool.root}/rsync/", f"{bench.scratch}/back-2/")
    _expect_same_tree(source, bench.scratch / "back-2", "what rsync brought back")
    pool.umount()
    dynamicfs("check", "--data", pool.disks[0].path, check=True)


# What a shell and the tools of the test need; without --quick all that Debian requires of a system.
PACKAGES = (
    "base-files", "libc6", "dash", "coreutils", "libselinux1", "libpcre2-8-0", "libacl1", "libattr1", "libgmp10",
)  # fmt: skip
DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "urandom": (1, 9)}


def _packages(quick):
    if quick:
        return PACKAGES
    told = command("dpkg-query", "-W", "-f", "${Priority} ${Package}\n").out
    required = {line.split()[1] for line in told.splitlines() if line.startswith("required ")}
    return sorted(required.union(PACKAGES))  # Libraries have no priority of their own.


def _names(packages):
    """Files of packages, relative to the root, each once and behind its directories, none through a link."""
    names = set()
    for path in command("dpkg-query", "-L", *packages).out.splitlines():
        if not path.startswith("/") or not os.path.lexists(path):
            continue  # a remark, or documentation that this machine does without
        folder, name = os.path.split(os.path.normpath(path))
        names.add(os.path.join(os.path.realpath(folder), name).lstrip("/"))
        while folder != "/":
            names.add(os.path.realpath(folder).lstrip("/"))
            folder = os.path.dirname(folder)
    return sorted(name for name in names if name.split("/")[0] not in ("", "dev", "proc", "run", "sys", "tmp"))


def _sums(package):
    """What the package says itself of its files."""
    for name in (package, f"{package}:amd64", f"{package}:arm64"):
        path = f"/var/lib/dpkg/info/{name}.md5sums"
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                lines = [line for line in file if os.path.exists("/" + line.split(None, 1)[1].strip())]
            return "".join(lines)
    return ""


@case(
    GROUP,
    "a Debian system with devices, made on the mount from packages, is what they say, and runs",
    where=OWN_POOLS,
    needs=["root", "tar", "dpkg-query", "chroot", "md5sum"],
    timeout_s=400,
)
def system(bench):
    pool = pool_with_acl(bench)
    root = pool.root / "system"
    root.mkdir()
    packages = _packages(bench.quick)
    archive, names = bench.scratch / "system.tar", bench.scratch / "names"
    names.write_text("\n".join(_names(packages)) + "\n")
    tar = ("tar", "--xattrs", "--acls", "--numeric-owner", "--format=posix")
    command(*tar, "-cf", archive, "-C", "/", "--no-recursion", "-T", names, timeout_s=200)
    command(*tar, "-xpf", archive, "-C", root, timeout_s=200)
    (root / "dev").mkdir(exist_ok=True)
    for name, number in DEVICES.items():
        os.mknod(root / "dev" / name, 0o666 | stat.S_IFCHR, os.makedev(*number))
    pool.remount()
    command(*tar, "--compare", "-f", archive, "-C", root, timeout_s=200)
    sums = "".join(_sums(package) for package in packages)
    expect(len(sums.splitlines()) > 100, f"the packages know sums of {len(sums.splitlines())} files")
    (bench.scratch / "sums").write_text(sums)
    command("md5sum", "--check", "--quiet", "--strict", bench.scratch / "sums", cwd=root, timeout_s=200)
    script = "cat /etc/debian_version >/dev/null && head -c 3 /dev/zero | od -An -tx1 && ! echo x 2>/dev/null >/dev/full"
    told = command("chroot", root, "/bin/sh", "-c", script).out
    expect_equal(told.strip(), "00 00 00", "what a shell in the new system reads from /dev/zero")
    pool.umount()
    dynamicfs("check", "--data", pool.disks[0].path, check=True)
