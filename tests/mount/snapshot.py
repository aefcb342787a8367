"""A tree as its users see it, in a form that two moments can be compared by."""

import hashlib
import os
import stat

from harness import Failure

_PIECE_BYTES = 64 * 1024


def content_hash(path):
    """sha256 of where the bytes other than zero lie and what they are.

    Holes are skipped, so that a sparse terabyte costs no time; a hole and written zeros are the
    same.
    """
    digest = hashlib.sha256()
    fd = os.open(path, os.O_RDONLY)
    try:
        size_bytes = os.fstat(fd).st_size
        at = 0
        while at < size_bytes:
            try:
                at = os.lseek(fd, at, os.SEEK_DATA)
                end = os.lseek(fd, at, os.SEEK_HOLE)
            except OSError:  # ENXIO: a hole up to the end.
                break
            at -= at % _PIECE_BYTES
            while at < end:
                piece = os.pread(fd, _PIECE_BYTES, at)
                if not piece:
                    break
                if piece.count(0) != len(piece):
                    digest.update(at.to_bytes(8, "little") + piece.rstrip(b"\0"))
                at += _PIECE_BYTES
    finally:
        os.close(fd)
    return digest.hexdigest()


def _kind(mode):
    return stat.filemode(mode)[0]


def describe(path, with_content=True):
    """What stat, the extended attributes and the content of one name say, as a dictionary."""
    info = os.lstat(path)
    entry = {
        "type": _kind(info.st_mode),
        "mode": oct(stat.S_IMODE(info.st_mode)),
        "uid": info.st_uid,
        "gid": info.st_gid,
        "nlink": info.st_nlink,
        "size": info.st_size,
        "mtime_ns": info.st_mtime_ns,
        "xattrs": {
            name: os.getxattr(path, name, follow_symlinks=False).hex()
            for name in os.listxattr(path, follow_symlinks=False)
        },
    }
    if stat.S_ISLNK(info.st_mode):
        entry["target"] = os.readlink(path)
    elif stat.S_ISREG(info.st_mode) and with_content:
        entry["sha256"] = content_hash(path)
    elif stat.S_ISBLK(info.st_mode) or stat.S_ISCHR(info.st_mode):
        entry["rdev"] = info.st_rdev
    return entry


def snapshot(root, with_content=True):
    """{path relative to root: describe()} of everything below `root`, and of itself as '.'."""
    entries = {".": describe(root, with_content)}
    pending = [""]
    while pending:
        directory = pending.pop()
        for name in os.listdir(os.path.join(root, directory)):
            path = os.path.join(directory, name)
            entry = entries[path] = describe(os.path.join(root, path), with_content)
            if entry["type"] == "d":
                pending.append(path)
    return entries


def portable(entries):
    """A snapshot without what differs from one file system to the next: link counts, sizes of
    directories.
    """
    for entry in entries.values():
        del entry["nlink"]
        if entry["type"] == "d":
            del entry["size"]
    return entries


def differences(before, after):
    """One line for each name or property in which two snapshots differ."""
    lines = []
    for path in sorted(before.keys() | after.keys()):
        if path not in after:
            lines.append(f"{path} is missing")
        elif path not in before:
            lines.append(f"{path} is new")
        else:
            one, two = before[path], after[path]
            lines += [
                f"{path}: {key} was {one.get(key)}, is {two.get(key)}"
                for key in sorted(one.keys() | two.keys())
                if one.get(key) != two.get(key)
            ]
    return lines


def expect_same(before, after, what):
    lines = differences(before, after)
    if lines:
        raise Failure(f"{what}: {len(lines)} differences, first: " + "; ".join(lines[:3]))


def expect_sound(root):
    """Walks the whole tree: every name answers, every byte can be read, every link count is right.

    Raises Failure naming the first that does not.
    """
    names_of_inode, links_of_inode = {}, {}
    pending = [os.fspath(root)]
    while pending:
        directory = pending.pop()
        listed = os.listdir(directory)
        if len(listed) != len(set(listed)):
            raise Failure(f"{directory} lists a name twice")
        for name in listed:
            path = os.path.join(directory, name)
            try:
                info = os.lstat(path)
                if stat.S_ISREG(info.st_mode):
                    content_hash(path)
                elif stat.S_ISLNK(info.st_mode):
                    os.readlink(path)
            except OSError as error:
                raise Failure(f"{path} is listed but: {error.strerror}") from error
            if stat.S_ISDIR(info.st_mode):
                pending.append(path)
            else:
                names_of_inode.setdefault(info.st_ino, []).append(path)
                links_of_inode[info.st_ino] = info.st_nlink
    for inode, names in names_of_inode.items():
        if len(names) != links_of_inode[inode]:
            raise Failure(f"{names[0]} has {links_of_inode[inode]} links but {len(names)} names")
