"""Names and attributes through the mount: what POSIX and rename(2), link(2), xattr(7) promise.

Each case leaves its tree behind; the closing case unmounts, mounts again and compares everything.
"""

import errno
import os
import stat

from case import case
from harness import NOBODY_UID, expect, expect_equal, in_child
from snapshot import expect_same, expect_sound, snapshot
from syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE, directory_entries, renameat2

GROUP = "names"


def expect_error(wanted, call, *arguments, **keywords):
    """`call` fails with this errno, or with one of these."""
    names = [errno.errorcode[code] for code in (wanted if isinstance(wanted, tuple) else (wanted,))]
    what = f"{getattr(call, '__name__', 'call')}{tuple(str(argument) for argument in arguments)}"
    try:
        call(*arguments, **keywords)
    except OSError as error:
        got = errno.errorcode[error.errno]
        expect(got in names, f"{what}: {got}, expected {' or '.join(names)}")
    else:
        expect(False, f"{what} succeeded, expected {' or '.join(names)}")


@case(GROUP, "rename replaces a file and keeps the inode that was moved")
def rename_replaces(bench):
    old, new = bench.write("old", b"old content"), bench.write("new", b"new content")
    inode = os.stat(new).st_ino
    os.rename(new, old)
    expect_equal(old.read_bytes(), b"new content", "the replaced file")
    expect_equal(os.stat(old).st_ino, inode, "its inode")
    expect_equal(sorted(os.listdir(bench.dir)), ["old"], "the directory")


@case(GROUP, "rename moves directories, and refuses to replace a full one or to nest one in itself")
def rename_directories(bench):
    for path in ("a/b/c", "empty", "full/x"):
        (bench.dir / path).mkdir(parents=True)
    at = lambda path: bench.dir / path
    os.rename(at("a/b"), at("empty"))
    expect(at("empty/c").is_dir(), "the moved directory lost its child")
    expect_error((errno.ENOTEMPTY, errno.EEXIST), os.rename, at("a"), at("full"))
    expect_error(errno.EINVAL, os.rename, at("full"), at("full/x/y"))
    bench.write("file", b"x")
    expect_error(errno.ENOTDIR, os.rename, at("a"), at("file"))
    expect_error(errno.EISDIR, os.rename, at("file"), at("a"))
    os.rename(at("empty"), at("a/moved"))
    expect_equal(
        os.stat(at("a/moved/..")).st_ino, os.stat(at("a")).st_ino, "'..' of a moved directory"
    )
    expect_equal(
        os.stat(at("a")).st_nlink in (1, 3), True, "link count of the new parent is 3 (or always 1)"
    )


@case(GROUP, "rename with NOREPLACE refuses an existing target, with EXCHANGE swaps two names")
def rename_flags(bench):
    one, two = bench.write("one", b"1"), bench.write("two", b"22")
    (bench.dir / "folder").mkdir()
    bench.write("folder/inside", b"inside")
    expect_error(errno.EEXIST, renameat2, one, two, RENAME_NOREPLACE)
    renameat2(one, bench.dir / "free", RENAME_NOREPLACE)
    renameat2(bench.dir / "free", one, RENAME_NOREPLACE)
    renameat2(one, two, RENAME_EXCHANGE)
    expect_equal((one.read_bytes(), two.read_bytes()), (b"22", b"1"), "contents after the exchange")
    renameat2(one, bench.dir / "folder", RENAME_EXCHANGE)
    expect_equal(
        (bench.dir / "one" / "inside").read_bytes(), b"inside", "a directory exchanged with a file"
    )
    expect_error(errno.ENOENT, renameat2, two, bench.dir / "nowhere", RENAME_EXCHANGE)
    expect_error(errno.EINVAL, renameat2, two, bench.dir / "x", RENAME_EXCHANGE | RENAME_NOREPLACE)


@case(GROUP, "hard links share one inode, count it, and outlive the first name")
def hard_links(bench):
    first = bench.write("first", b"shared")
    (bench.dir / "other").mkdir()
    second = bench.dir / "other" / "second"
    os.link(first, second)
    expect_equal(os.stat(first).st_nlink, 2, "link count")
    expect_equal(os.stat(first).st_ino, os.stat(second).st_ino, "inode")
    second.write_bytes(b"through the second name")
    expect_equal(first.read_bytes(), b"through the second name", "content through the first name")
    expect_error(errno.EEXIST, os.link, first, second)
    expect_error(errno.EPERM, os.link, bench.dir / "other", bench.dir / "directory-link")
    os.rename(first, second)  # Two names of one inode: rename(2) does nothing.
    expect_equal(
        sorted(os.listdir(bench.dir)), ["first", "other"], "names after renaming onto itself"
    )
    os.unlink(first)
    expect_equal(os.stat(second).st_nlink, 1, "link count after unlink")
    expect_equal(second.read_bytes(), b"through the second name", "content after unlink")
    for number in range(100):
        os.link(second, bench.dir / f"link-{number}")
    expect_equal(os.stat(second).st_nlink, 101, "link count of many")


@case(GROUP, "symbolic links keep their text, dangling or long, and are followed")
def symbolic_links(bench):
    bench.write("target", b"t")
    length_max = 1000 if bench.tree.kind == "xfs" else 4000
    long_text = "x/" * (length_max // 2)
    for name, text in (
        ("to-target", "target"),
        ("dangling", "not there"),
        ("long", long_text),
        ("loop", "loop"),
    ):
        os.symlink(text, bench.dir / name)
        expect_equal(os.readlink(bench.dir / name), text, f"text of {name}")
    expect_equal((bench.dir / "to-target").read_bytes(), b"t", "content through the link")
    expect_equal(os.lstat(bench.dir / "to-target").st_size, len("target"), "size of a link")
    expect_error(errno.ENOENT, open, bench.dir / "dangling")
    expect_error(errno.ELOOP, open, bench.dir / "loop")
    expect_error(errno.EINVAL, os.readlink, bench.dir / "target")


@case(GROUP, "mknod makes fifos, sockets and devices, and a fifo carries bytes", needs=["root"])
def special_files(bench):
    os.mkfifo(bench.dir / "fifo", 0o640)
    os.mknod(bench.dir / "socket", stat.S_IFSOCK | 0o600)
    os.mknod(bench.dir / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(bench.dir / "block", stat.S_IFBLK | 0o600, os.makedev(259, 200_000))
    expect_equal(os.stat(bench.dir / "null").st_rdev, os.makedev(1, 3), "device number")
    expect_equal(
        os.stat(bench.dir / "block").st_rdev, os.makedev(259, 200_000), "large device number"
    )
    reader = os.open(bench.dir / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(bench.dir / "fifo", os.O_WRONLY)
    os.write(writer, b"through")
    expect_equal(os.read(reader, 100), b"through", "what came out of the fifo")
    os.close(reader)
    os.close(writer)


@case(GROUP, "extended attributes are set, replaced, listed and removed on every kind of file")
def extended_attributes(bench):
    # ext4, the usual home of a plain directory, keeps all attributes of a file in one block.
    large, many = (bytes(1000), 10) if bench.tree.kind == "dir" else (bytes(range(256)) * 16, 50)
    bench.write("file", b"x")
    (bench.dir / "folder").mkdir()
    for path in (bench.dir / "file", bench.dir / "folder"):
        os.setxattr(path, "user.small", b"1")
        os.setxattr(path, "user.empty", b"")
        os.setxattr(path, "user.large", large)
        expect_error(errno.EEXIST, os.setxattr, path, "user.small", b"2", os.XATTR_CREATE)
        expect_error(errno.ENODATA, os.setxattr, path, "user.absent", b"2", os.XATTR_REPLACE)
        os.setxattr(path, "user.small", b"two", os.XATTR_REPLACE)
        expect_equal(os.getxattr(path, "user.small"), b"two", "replaced value")
        expect_equal(os.getxattr(path, "user.large"), large, "large value")
        expect_equal(os.getxattr(path, "user.empty"), b"", "empty value")
        expect_equal(
            sorted(os.listxattr(path)), ["user.empty", "user.large", "user.small"], "names"
        )
        os.removexattr(path, "user.empty")
        expect_error(errno.ENODATA, os.getxattr, path, "user.empty")
        expect_error(errno.ENODATA, os.removexattr, path, "user.empty")
    for number in range(many):
        os.setxattr(bench.dir / "file", f"user.many-{number:02}", b"%d" % number)
    expect_equal(len(os.listxattr(bench.dir / "file")), many + 2, "count of many attributes")
    if os.geteuid() == 0:
        os.symlink("anything", bench.dir / "link")
        os.setxattr(bench.dir / "link", "trusted.note", b"on the link", follow_symlinks=False)


@case(
    GROUP,
    "modes and owners are kept; chown clears set-uid, a directory hands down its set-gid group",
    needs=["root"],
)
def modes_and_owners(bench):
    path = bench.write("file", b"x")
    for mode in (0o000, 0o421, 0o755, 0o1777, 0o2755, 0o4711):
        os.chmod(path, mode)
        expect_equal(oct(os.stat(path).st_mode & 0o7777), oct(mode), "mode")
    os.chown(path, 1234, 5678)
    info = os.stat(path)
    expect_equal((info.st_uid, info.st_gid), (1234, 5678), "owner and group")
    expect_equal(oct(info.st_mode & 0o7777), oct(0o711), "mode after chown of a set-uid program")
    folder = bench.dir / "team"
    folder.mkdir()
    os.chown(folder, 0, 4321)
    os.chmod(folder, 0o2775)
    (folder / "sub").mkdir()
    (folder / "file").touch()
    expect_equal(os.stat(folder / "file").st_gid, 4321, "group of a file in a set-gid directory")
    expect_equal(
        os.stat(folder / "sub").st_mode & stat.S_ISGID, stat.S_ISGID, "set-gid of its subdirectory"
    )


@case(GROUP, "another user is held to the permissions and owns what he makes", needs=["root"])
def another_user(bench):
    bench.write("secret", b"x").chmod(0o600)
    bench.write("readable", b"x").chmod(0o644)
    for name, mode in (("open", 0o777), ("sticky", 0o1777)):
        (bench.dir / name).mkdir()
        os.chmod(bench.dir / name, mode)
    bench.write("sticky/of-root", b"x")
    program = bench.write("program", b"x")
    os.chown(program, NOBODY_UID, NOBODY_UID)
    os.chmod(program, 0o4755)
    here = os.open(bench.dir, os.O_RDONLY)  # Nobody may not walk down to the mountpoint.

    def as_another():
        os.setgroups([])
        os.setgid(NOBODY_UID)
        os.setuid(NOBODY_UID)
        expect_error(errno.EACCES, os.open, "secret", os.O_RDONLY, dir_fd=here)
        expect_error(errno.EACCES, os.open, "readable", os.O_WRONLY, dir_fd=here)
        expect_error(errno.EACCES, os.mkdir, "denied", dir_fd=here)
        expect_error(errno.EPERM, os.chmod, "readable", 0o666, dir_fd=here)
        expect_error(errno.EPERM, os.unlink, "sticky/of-root", dir_fd=here)
        os.close(os.open("readable", os.O_RDONLY, dir_fd=here))
        os.close(os.open("open/mine", os.O_CREAT | os.O_WRONLY, 0o640, dir_fd=here))
        fd = os.open("program", os.O_WRONLY, dir_fd=here)
        os.write(fd, b"y")
        os.close(fd)

    in_child(as_another, 30, on_hang=lambda: None)
    info = os.stat(bench.dir / "open" / "mine")
    expect_equal((info.st_uid, info.st_gid), (NOBODY_UID, NOBODY_UID), "owner of the new file")
    expect_equal(
        oct(os.stat(program).st_mode & 0o7777),
        oct(0o755),
        "mode of a set-uid program its owner wrote to",
    )


@case(GROUP, "times are kept to the nanosecond, before 1970 and after 2038")
def times(bench):
    path = bench.write("file", b"x")
    for access_ns, change_ns in (
        (1, 999_999_999),
        (1_700_000_000_123_456_789, 1_700_000_000_987_654_321),
        (-86_400 * 10**9 + 5, -1),
        (4_102_444_800 * 10**9 + 1, 4_102_444_800 * 10**9 + 2),
    ):
        os.utime(path, ns=(access_ns, change_ns))
        info = os.stat(path)
        expect_equal((info.st_atime_ns, info.st_mtime_ns), (access_ns, change_ns), "times")
    before = os.stat(path)
    path.write_bytes(b"changed")
    after = os.stat(path)
    expect(
        after.st_mtime_ns > 10**18 and after.st_mtime_ns < 4 * 10**18,
        "writing did not set the time to now",
    )
    expect(after.st_ctime_ns >= before.st_ctime_ns, "the change time went backwards")
    folder_before = os.stat(bench.dir).st_mtime_ns
    bench.write("another", b"")
    expect(
        os.stat(bench.dir).st_mtime_ns >= folder_before,
        "creating a file did not touch its directory",
    )
    os.utime(bench.dir, ns=(5, 7))


@case(GROUP, "errors are the ones POSIX names")
def errors(bench):
    at = lambda path: bench.dir / path
    at("folder").mkdir()
    bench.write("folder/file", b"x")
    expect_error(errno.ENOTEMPTY, os.rmdir, at("folder"))
    expect_error(errno.EEXIST, os.mkdir, at("folder"))
    expect_error(errno.EEXIST, os.open, at("folder/file"), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    expect_error(errno.ENOENT, os.stat, at("absent"))
    expect_error(errno.ENOENT, os.unlink, at("absent"))
    expect_error(errno.ENOENT, os.mkdir, at("absent/child"))
    expect_error(errno.ENOTDIR, os.stat, at("folder/file/child"))
    expect_error(errno.ENOTDIR, os.rmdir, at("folder/file"))
    expect_error(errno.ENOTDIR, os.listdir, at("folder/file"))
    expect_error(errno.EISDIR, os.open, at("folder"), os.O_WRONLY)
    expect_error(errno.EISDIR, os.unlink, at("folder"))
    expect_error(errno.EINVAL, os.rmdir, f"{at('folder')}/.")
    expect_error(errno.ENAMETOOLONG, os.mkdir, at("n" * 256))
    expect_error(errno.EINVAL, os.truncate, at("folder/file"), -1)
    expect_error(errno.ENXIO, os.open, _fifo(at("fifo")), os.O_WRONLY | os.O_NONBLOCK)
    at("n" * 255).mkdir()
    bench.write("ü" * 127 + "\n", b"a name of 255 bytes with a line end")
    expect("ü" * 127 + "\n" in os.listdir(bench.dir), "the odd name is not listed")


def _fifo(path):
    os.mkfifo(path)
    return path


@case(GROUP, "a large directory lists every name once while names come and go", timeout_s=900)
def large_directory(bench):
    count = 100_000
    folder = bench.dir / "many"
    folder.mkdir()
    fd = os.open(folder, os.O_RDONLY)
    name_of = "entry-{:06}".format
    for number in range(count):
        os.close(os.open(name_of(number), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, dir_fd=fd))
    expect_equal(
        sorted(_read_names(folder)), [name_of(number) for number in range(count)], "the listing"
    )

    # Every third name goes and as many new ones come while the listing runs.
    listed, doomed, added = [], list(range(0, count, 3)), 0
    for step, name in enumerate(_read_names(folder)):
        listed.append(name)
        if step % 3 == 0 and doomed:
            os.unlink(name_of(doomed.pop(bench.rng.randrange(len(doomed)))), dir_fd=fd)
            os.close(os.open(f"added-{added:06}", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=fd))
            added += 1
    expect_equal(len(listed) - len(set(listed)), 0, "names listed twice")
    missing = {name_of(number) for number in range(count) if number % 3} - set(listed)
    expect_equal(sorted(missing)[:3], [], "names that were there all the time and not listed")
    expect_equal(
        len(os.listdir(folder)), count - (count + 2) // 3 + len(doomed) + added, "count at the end"
    )
    os.close(fd)


def _read_names(folder):
    """Yields the names as the kernel hands them out, a few at a time, so that changes fall in
    between.
    """
    fd = os.open(folder, os.O_RDONLY)
    try:
        while entries := directory_entries(fd, 4096):
            yield from (name for name, _ in entries if name not in (".", ".."))
    finally:
        os.close(fd)


@case(GROUP, "a listing continues at a remembered place after names before it were deleted")
def cookies(bench):
    for number in range(1000):
        (bench.dir / f"name-{number:04}").touch()
    fd = os.open(bench.dir, os.O_RDONLY)
    entries = []
    while piece := directory_entries(fd, 4096):
        entries += piece
    middle = len(entries) // 2
    for name, _ in entries[:middle]:
        if name not in (".", ".."):
            os.unlink(bench.dir / name)
    os.lseek(fd, entries[middle][1], os.SEEK_SET)
    rest = []
    while piece := directory_entries(fd, 4096):
        rest += [name for name, _ in piece]
    os.close(fd)
    expect_equal(rest, [name for name, _ in entries[middle + 1 :]], "the rest of the listing")


@case(GROUP, "a deleted directory that is still open stays usable and empty")
def deleted_directory(bench):
    folder = bench.dir / "folder"
    folder.mkdir()
    fd = os.open(folder, os.O_RDONLY)
    folder.rmdir()
    expect_equal(os.listdir(fd), [], "listing of the deleted directory")
    expect_error(errno.ENOENT, os.mkdir, "child", dir_fd=fd)
    expect_equal(os.fstat(fd).st_nlink, 0, "its link count")
    os.close(fd)


def check_survival(bench):
    """Compares the group's whole tree, as a user sees it, before and after an unmount and a mount."""
    before = snapshot(bench.tree.root)
    bench.tree.remount()
    expect_same(before, snapshot(bench.tree.root), "after the remount")
    expect_sound(bench.tree.root)


SURVIVAL = "everything made above survives unmount and remount"
case(GROUP, SURVIVAL, closes_group=True, timeout_s=900)(check_survival)
