"""Damage to the trees of the crash oracle's workloads, each of a kind that a broken file system
could do.

A damage gets the directory, the list of events, and a workload in the state before them. It must
touch something that the events promise.
"""

import contextlib
import os
import shutil
import sqlite3

from material import git
from oracle import SECTOR_BYTES, sector, sectors
from syscalls import walk
from workload import read_file
from workloads_blocks import Blocks, Crowd, Direct
from workloads_names import Names, Replace
from workloads_programs import Cp, Ninja, Rsync, Tar
from workloads_records import GitCommits, SqliteDelete, SqliteWal
from workloads_shared import Append, Mapped


def overwrite(path, offset_bytes, data):
    with open(path, "r+b") as file:
        file.seek(offset_bytes)
        file.write(data)


# Blocks and Direct


def _replayed(events, workload):
    for event in events:
        workload._replay(event)
    return workload


def _durable_sector(here, events, workload):
    """(path, model, index, version) of a sector whose only legal state is data."""
    workload = _replayed(events, workload)
    for name, states in workload.existence.items():
        model = workload.models.get(name)
        size = min(size for _, size in model._sizes)
        for index, states_of_sector in model._states.items():
            if (
                states == [True]
                and len(states_of_sector) == 1
                and states_of_sector[0][1]
                and index < size
            ):
                return here / name, model, index, states_of_sector[0][0]
    raise AssertionError("the workload made nothing durable; let it run longer")


def drop_file(here, events, workload):
    _durable_sector(here, events, workload)[0].unlink()


def stale_sector(here, events, workload):
    path, model, index, version = _durable_sector(here, events, workload)
    overwrite(path, index * SECTOR_BYTES, sector(model.session, model.file_id, index, version - 1))


def zeroed_sector(here, events, workload):
    path, _, index, _ = _durable_sector(here, events, workload)
    overwrite(path, index * SECTOR_BYTES, bytes(SECTOR_BYTES))


def foreign_sector(here, events, workload):
    path, model, index, version = _durable_sector(here, events, workload)
    overwrite(path, index * SECTOR_BYTES, sector(model.session, model.file_id + 1, index, version))


def misplaced_sector(here, events, workload):
    path, model, index, version = _durable_sector(here, events, workload)
    overwrite(path, index * SECTOR_BYTES, sector(model.session, model.file_id, index + 1, version))


def garbage_in_sector(here, events, workload):
    path, _, index, _ = _durable_sector(here, events, workload)
    overwrite(path, index * SECTOR_BYTES + 100, b"garbage")


def short_file(here, events, workload):
    path, _, index, _ = _durable_sector(here, events, workload)
    os.truncate(path, index * SECTOR_BYTES)


def returned_file(here, events, workload):
    events += [["unlink", name] for name in os.listdir(here)[:1]] + [["names are durable"]]


def unknown_file(here, events, workload):
    (here / "file-from-nowhere").write_bytes(b"")


BLOCK_DAMAGES = {
    "a durable file is missing": drop_file,
    "a sector shows an older version than the durable one": stale_sector,
    "a durable sector is zeros": zeroed_sector,
    "a sector belongs to another file": foreign_sector,
    "a sector belongs to another place": misplaced_sector,
    "a sector holds bytes that were never written": garbage_in_sector,
    "a durable file is short": short_file,
    "a deleted file is back": returned_file,
    "a file nobody made": unknown_file,
}


def stale_sector_in_crowd(here, events, workload):
    own = [[kind[2:], *rest] for kind, *rest in events if kind.startswith("1 ")]
    stale_sector(here / "1", own, workload.parts[1])


# Names


def _leaves(here):
    """Files and links, oldest inode first, so that recent operations have hardly touched the first."""
    paths = [
        os.path.join(parent, name) for parent, directories, files in walk(here) for name in files
    ]
    return sorted(paths, key=lambda path: os.lstat(path).st_mtime_ns)


def rename_left_both(here, events, workload):
    os.link(_leaves(here)[0], here / "second-name", follow_symlinks=False)


def rename_left_neither(here, events, workload):
    os.unlink(_leaves(here)[0])


def rename_undone(here, events, workload):
    os.rename(_leaves(here)[0], here / "n-old-name")


def half_exchange(here, events, workload):
    """The first name already shows the second object, which the second name shows too."""
    one, *others = _leaves(here)
    two = next(path for path in others if os.lstat(path).st_ino != os.lstat(one).st_ino)
    os.unlink(one)
    os.link(two, one, follow_symlinks=False)


def foreign_link(here, events, workload):
    regular = next(path for path in _leaves(here) if not os.path.islink(path))
    outside = here.parent / "outside"
    outside.unlink(missing_ok=True)
    os.link(regular, outside)


# Replace


def _durable_slot(events):
    """(slot, version) that was durable at some time."""
    versions, durable = {}, {}
    for kind, *rest in events:
        if kind == "replace":
            versions[rest[0]] = rest[1]
        else:
            durable.update(versions)
    return next(iter(durable.items()))


def slot_missing(here, events, workload):
    os.unlink(here / f"slot-{_durable_slot(events)[0]}")


def slot_old(here, events, workload):
    slot, version = _durable_slot(events)
    (here / f"slot-{slot}").write_bytes(workload._content(slot, version - 1))


def slot_empty(here, events, workload):
    os.truncate(here / f"slot-{_durable_slot(events)[0]}", 0)


def slot_mixed(here, events, workload):
    slot, _ = _durable_slot(events)
    overwrite(here / f"slot-{slot}", 0, sectors(workload.seed, slot, 0, 1, 1))


def slot_foreign(here, events, workload):
    slot, version = _durable_slot(events)
    (here / f"slot-{slot}").write_bytes(workload._content(slot + 1, version))


# Mapped and Append


def mapped_stale(here, events, workload):
    """Every stored sector goes back to version 1, which all but a few of the first have left
    behind.
    """
    data = read_file(here / "mapped")
    for at in range(0, len(data), SECTOR_BYTES):
        index = at // SECTOR_BYTES
        overwrite(here / "mapped", at, sector(workload.seed, index % 2, index, 2))


def mapped_swapped(here, events, workload):
    data = read_file(here / "mapped")
    overwrite(here / "mapped", 0, data[SECTOR_BYTES:] + data[:SECTOR_BYTES])


def _log_file(here):
    return next(here.iterdir())


def record_lost(here, events, workload):
    data = read_file(_log_file(here))
    _log_file(here).write_bytes(data[:1280] + data[1280 + Append.record_bytes :])


def record_zeroed(here, events, workload):
    overwrite(_log_file(here), 1280, bytes(Append.record_bytes))


def record_mixed(here, events, workload):
    data = read_file(_log_file(here))
    overwrite(_log_file(here), 1280 + 64, data[64:128].swapcase())


def record_twice(here, events, workload):
    data = read_file(_log_file(here))
    _log_file(here).write_bytes(data + data[-Append.record_bytes :])


def log_cut(here, events, workload):
    os.truncate(_log_file(here), 1280)


# Copies


def _durable_copy(here, events):
    going = {event[1] for event in events if event[0] == "going"}
    return here / next(
        event[1] for event in events if event[0] == "durable" and event[1] not in going
    )


def _first_file(root):
    return next(path for path in sorted(root.rglob("file-*")) if path.stat().st_size > 5000)


def copy_missing(here, events, workload):
    shutil.rmtree(_durable_copy(here, events))


def file_of_copy_missing(here, events, workload):
    _first_file(_durable_copy(here, events)).unlink()


def byte_of_copy_wrong(here, events, workload):
    path = _first_file(_durable_copy(here, events))
    info = path.stat()
    overwrite(path, 4096, bytes([read_file(path)[4096] ^ 1]))
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def mode_of_copy_wrong(here, events, workload):
    _first_file(_durable_copy(here, events)).chmod(0o700)


def copy_returned(here, events, workload):
    name = _durable_copy(here, events).name
    events += [["going", name], ["gone", name]]


def foreign_bytes_in_part(here, events, workload):
    """A copy that was only begun may be short, but not hold another file's bytes."""
    begun = here / "900000"
    begun.mkdir()
    events.append(["begun", begun.name])
    original = _first_file(_durable_copy(here, events))
    target = begun / original.relative_to(_durable_copy(here, events))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(read_file(original)[:4096] + b"another file's bytes")


COPY_DAMAGES = {
    "a durable copy is missing": copy_missing,
    "a file of a durable copy is missing": file_of_copy_missing,
    "one bit of a durable copy is wrong": byte_of_copy_wrong,
    "the mode of a durable copy is wrong": mode_of_copy_wrong,
    "a deleted copy is back": copy_returned,
    "a copy that was begun holds foreign bytes": foreign_bytes_in_part,
}


# The other programs


def _rsync_file(here):
    return max(
        (path for path in (here / "tree").rglob("file-*") if path.is_file()),
        key=lambda path: path.stat().st_size,
    )


def rsync_missing(here, events, workload):
    _rsync_file(here).unlink()


def rsync_mixed(here, events, workload):
    path = _rsync_file(here)
    path.write_bytes(read_file(path)[:-5000] + b"version 0 " * 500)


def commit_lost(here, events, workload):
    clone = next(event[1] for event in events if event[0] == "clone durable")
    # The kill may have met git while it was at it.
    (here / clone / ".git" / "refs" / "heads" / "main.lock").unlink(missing_ok=True)
    git("update-ref", "refs/heads/main", "HEAD~3", cwd=here / clone)


def object_lost(here, events, workload):
    clone = next(event[1] for event in events if event[0] == "clone durable")
    commit = [event[1] for event in events if event[0] == "commit durable"][-1]
    (here / clone / ".git" / "objects" / commit[:2] / commit[2:]).unlink()


def source_changed(here, events, workload):
    overwrite(here / "project" / "src" / "main.c", 10, b"X")


def product_foreign(here, events, workload):
    (here / "project" / "out").mkdir(exist_ok=True)
    (here / "project" / "out" / "module_1.o").write_bytes(b"not from the compiler")


def _sql(here, statement):
    with contextlib.closing(sqlite3.connect(here / "data.db", isolation_level=None)) as database:
        database.execute(statement)


def transaction_lost(here, events, workload):
    _sql(here, "DELETE FROM item WHERE batch >= (SELECT max(batch) - 1 FROM item)")


def half_transaction(here, events, workload):
    _sql(here, "DELETE FROM item WHERE rowid = (SELECT max(rowid) FROM item WHERE part > 0)")


def row_wrong(here, events, workload):
    _sql(here, "UPDATE item SET body = 'x' WHERE rowid = (SELECT max(rowid) FROM item)")


def page_overwritten(here, events, workload):
    _sql(here, "VACUUM")
    overwrite(here / "data.db", 2 * 4096, bytes(range(256)) * 16)


def database_missing(here, events, workload):
    (here / "data.db").unlink()


SQL_DAMAGES = {
    "a committed transaction is lost": transaction_lost,
    "half a transaction is there": half_transaction,
    "a row is wrong": row_wrong,
    "a page of the database is overwritten": page_overwritten,
    "the database is missing": database_missing,
}

DAMAGES = {
    Blocks: BLOCK_DAMAGES,
    Direct: {"a sector shows an older version than the durable one": stale_sector},
    Crowd: {"a sector shows an older version than the durable one": stale_sector_in_crowd},
    Names: {
        "a rename left both names": rename_left_both,
        "a rename left neither name": rename_left_neither,
        "a durable rename is undone": rename_undone,
        "an exchange is half done": half_exchange,
        "a link count is wrong": foreign_link,
    },
    Replace: {
        "a replaced file is missing": slot_missing,
        "a replaced file is older than the durable one": slot_old,
        "a replaced file is empty": slot_empty,
        "a replaced file is part old, part new": slot_mixed,
        "a file holds another one's content": slot_foreign,
    },
    Mapped: {
        "mapped sectors are stale": mapped_stale,
        "mapped sectors lie elsewhere": mapped_swapped,
    },
    Append: {
        "a record is lost": record_lost,
        "a durable record is zeros": record_zeroed,
        "a record is mixed with another": record_mixed,
        "a record is there twice": record_twice,
        "durable records are cut off": log_cut,
    },
    Cp: COPY_DAMAGES,
    Tar: {"a file of a durable copy is missing": file_of_copy_missing},
    Rsync: {
        "a replaced file is missing": rsync_missing,
        "a replaced file is part old, part new": rsync_mixed,
    },
    GitCommits: {
        "a durable commit is lost": commit_lost,
        "an object of a durable commit is lost": object_lost,
    },
    Ninja: {
        "a durable source is changed": source_changed,
        "a product holds foreign bytes": product_foreign,
    },
    SqliteDelete: SQL_DAMAGES,
    SqliteWal: SQL_DAMAGES,
}
