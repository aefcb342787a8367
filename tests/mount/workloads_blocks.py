"""The crash oracle's writers that know every byte: all kinds of writes on a few files."""

import os

from oracle import SECTOR_BYTES, FileModel, sectors
from syscalls import aligned, fsync_path, punch_hole, zero_range
from workload import Workload, list_names, nearest, read_file


class Blocks(Workload):
    """Writes, truncations, holes, fsync and deletion on a few files, through the page cache."""

    name = "blocks"
    is_direct = False
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
            (10, 4, 2, 3, 1, 1, 1),
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
