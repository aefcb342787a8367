"""The crash oracle's writers that know every byte: all kinds of writes on a few files."""

import os

from oracle import SECTOR_BYTES, FileModel, sectors
from syscalls import aligned, fsync_path, punch_hole, zero_range
from workload import Workload, in_two_processes, list_names, nearest, read_file


class Blocks(Workload):
    """Writes, truncations, holes, fsync and deletion on a few files, through the page cache."""

    name = "blocks"
    is_direct = False
    sync_weight = 3  # how often fsync is drawn, where a write of the page cache is drawn 10 times
    dsync_weight = 2
    file_count_max = 5
    size_max_sectors = 2048

    def __init__(self, directory, seed):
        super().__init__(directory, seed)
        self.models = {}  # name -> FileModel of a file that is or may be there
        self.existence = {}  # name -> the possible answers to "is it there?", the durable one first
        self.next_file_id = 1

    def run(self, here, log, rng, is_ordered):
        for _ in range(4000):
            living = [name for name, states in self.existence.items() if states[-1]]
            if len(living) < self.file_count_max:
                living.append(self._create(here, log))
            elif rng.random() < 0.02:
                self._unlink(here, log, living.pop(rng.randrange(len(living))))
            self._change(here, log, rng, rng.choice(living))

    def _create(self, here, log):
        name = f"file-{self.next_file_id}"
        self._apply(log, "create", name, self.next_file_id)
        fd = os.open(os.path.join(here, name), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
        os.fsync(fd)
        os.close(fd)
        fsync_path(here)
        self._apply(log, "names are durable")
        return name

    def _unlink(self, here, log, name):
        self._apply(log, "unlink", name)
        os.unlink(os.path.join(here, name))
        fsync_path(here)
        self._apply(log, "names are durable")

    def _change(self, here, log, rng, name):
        model = self.models[name]
        first = rng.randrange(self.size_max_sectors)
        count = min(int(512 ** rng.random()), self.size_max_sectors - first)
        kind = rng.choices(
            ("write", "append", "dsync", "sync", "punch", "zero", "truncate"),
            (10, 4, self.dsync_weight, self.sync_weight, 1, 1, 1),
        )[0]
        fd = os.open(os.path.join(here, name), os.O_RDWR | self._open_flags(kind))
        try:
            if kind == "append":
                first = min(model.size_sectors, self.size_max_sectors - count)
            if kind in ("write", "append", "dsync"):
                self._apply(log, "write", name, first, count)
                data = sectors(model.session, model.file_id, first, count, model.version)
                os.pwrite(fd, aligned(data) if self.is_direct else data, first * SECTOR_BYTES)
                if kind == "dsync":
                    self._apply(log, "range is durable", name, model.version, first, first + count)
            elif kind == "sync":
                rng.choice((os.fsync, os.fdatasync))(fd)
                self._apply(log, "file is durable", name, model.version)
            elif kind == "truncate":
                self._apply(log, "truncate", name, first)
                os.ftruncate(fd, first * SECTOR_BYTES)
            elif first < model.size_sectors:  # Holes inside the file only, so that its size stays.
                count = min(count, model.size_sectors - first)
                self._apply(log, "clear", name, first, first + count)
                (punch_hole if kind == "punch" else zero_range)(
                    fd, first * SECTOR_BYTES, count * SECTOR_BYTES
                )
        finally:
            os.close(fd)

    def _open_flags(self, kind):
        return (os.O_DSYNC if kind == "dsync" else 0) | (os.O_DIRECT if self.is_direct else 0)

    def _apply(self, log, *event):
        """An event changes the log and the model in the same way; verify() does the latter from the
        log.
        """
        log.write(*event)
        self._replay(event)

    def _replay(self, event):
        kind, *rest = event
        if kind == "create":
            name, file_id = rest
            self.models[name] = FileModel(self.seed, file_id)
            self.existence[name] = [False, True]
            self.next_file_id = file_id + 1
        elif kind == "unlink":
            self.existence[rest[0]].append(False)
        elif kind == "names are durable":
            self.existence = {name: states[-1:] for name, states in self.existence.items()}
        elif kind == "write":
            self.models[rest[0]].write(rest[1], rest[2], is_direct=self.is_direct)
        elif kind == "truncate":
            self.models[rest[0]].truncate(rest[1])
        elif kind == "clear":
            self.models[rest[0]].clear(rest[1], rest[2])
        elif kind == "file is durable":
            self.models[rest[0]].settle(rest[1])
        elif kind == "range is durable":
            self.models[rest[0]].settle(*rest[1:])

    def verify(self, here, events, is_ordered):
        for event in events:
            self._replay(event)
        listed = list_names(here)
        yield from (f"{name} was never made" for name in sorted(listed - self.existence.keys()))
        for name, states in list(self.existence.items()):
            if (name in listed) not in states:
                yield f"{name} is {'there' if name in listed else 'missing'}, though the directory was fsynced"
            if name not in listed:
                del self.existence[name], self.models[name]
                continue
            data = read_file(os.path.join(here, name))
            for problem in nearest(self.models[name].check(data, is_ordered)):
                yield f"{name}: {problem}"
            self.models[name].rebase(data)
            self.existence[name] = [True]


class Direct(Blocks):
    """The same around the page cache, where every request is whole or absent."""

    name = "direct"
    is_direct = True


class Crowd(Workload):
    """One process overwrites its files directly and never syncs, while another one syncs all the
    time.

    So at any moment some changes are durable and some are not, and space that the first one frees
    must not be used again just because the second one's records went out.
    """

    name = "crowd"
    self_test_s = 1

    def __init__(self, directory, seed):
        super().__init__(directory, seed)
        self.parts = [Direct("0", seed), Blocks("1", seed + 1)]
        self.parts[0].sync_weight = self.parts[0].dsync_weight = 0
        self.parts[1].sync_weight = 10
        self.is_there = False

    def run(self, here, log, rng, is_ordered):
        if not self.is_there:
            for part in self.parts:
                os.makedirs(os.path.join(here, part.directory), exist_ok=True)
            fsync_path(here)
            log.write("directories are durable")
        in_two_processes(
            lambda number, own_rng: self.parts[number].run(
                os.path.join(here, str(number)), PartLog(log, number), own_rng, is_ordered
            ),
            log,
            rng,
        )

    def verify(self, here, events, is_ordered):
        self.is_there = self.is_there or ["directories are durable"] in events
        if not self.is_there:
            return
        for number, part in enumerate(self.parts):
            own = [[kind[2:], *rest] for kind, *rest in events if kind.startswith(f"{number} ")]
            path = os.path.join(here, part.directory)
            if not os.path.isdir(path):
                yield f"{part.directory} is missing, though it was fsynced"
                continue
            yield from (f"{part.directory}/{line}" for line in part.verify(path, own, is_ordered))


class PartLog:
    """The log of one of several parts: its events carry the part's number in front."""

    def __init__(self, log, number):
        self._log = log
        self._number = number

    def write(self, kind, *rest):
        self._log.write(f"{self._number} {kind}", *rest)
