"""The crash oracle's workloads of two processes on one file: a shared mapping, and a log they
append to.
"""

import mmap
import os

from oracle import SECTOR_BYTES, FileModel, sector
from syscalls import fsync_path
from workload import Workload, in_two_processes, list_names, nearest, read_file


class Mapped(Workload):
    """Two processes write to one shared mapping, sector by sector and mixed within pages, and msync
    it.
    """

    name = "mmap"
    size_sectors = 1024

    def __init__(self, directory, seed):
        super().__init__(directory, seed)
        self.models = []
        self.is_there = False
        self._start()

    def _start(self):
        self.models = [FileModel(self.seed, writer) for writer in range(2)]
        for model in self.models:
            model.truncate(self.size_sectors)
            model.settle(model.version)

    def run(self, here, log, rng, is_ordered):
        path = os.path.join(here, "mapped")
        if not self.is_there:
            fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
            os.ftruncate(fd, self.size_sectors * SECTOR_BYTES)
            os.fsync(fd)
            os.close(fd)
            fsync_path(here)
            log.write("exists")
        in_two_processes(lambda writer, own_rng: self._store(path, log, own_rng, writer), log, rng)

    def _store(self, path, log, rng, writer):
        fd = os.open(path, os.O_RDWR)
        memory = mmap.mmap(fd, self.size_sectors * SECTOR_BYTES)
        model = self.models[writer]
        for _ in range(600):
            for _ in range(rng.randint(1, 20)):
                index = rng.randrange(self.size_sectors // 2) * 2 + writer
                log.write("store", writer, index)
                version = model.write(index, 1)
                memory[index * SECTOR_BYTES : (index + 1) * SECTOR_BYTES] = sector(
                    self.seed, writer, index, version
                )
            if rng.random() < 0.5:
                memory.flush()
            else:
                os.fsync(fd)
            log.write("durable", writer, model.version)

    def verify(self, here, events, is_ordered):
        for kind, *rest in events:
            if kind == "exists":
                self.is_there = True
            elif kind == "store":
                self.models[rest[0]].write(rest[1], 1)
            elif kind == "durable":
                self.models[rest[0]].settle(rest[1])
        if not self.is_there:
            return
        if "mapped" not in list_names(here):
            yield "mapped is missing, though it and its directory were fsynced"
            self.is_there = False
            self._start()
            return
        data = read_file(os.path.join(here, "mapped"))
        for writer, model in enumerate(self.models):
            own = bytearray(len(data))  # The other writer's sectors are not this model's business.
            for at in range(writer * SECTOR_BYTES, len(data), 2 * SECTOR_BYTES):
                own[at : at + SECTOR_BYTES] = data[at : at + SECTOR_BYTES]
            # Two writers make no common order, so only the state of each sector is checked.
            problems = model.check(bytes(own), is_ordered=False)
            yield from (f"mapped, writer {writer}: {line}" for line in nearest(problems))
            model.rebase(bytes(own))


class Append(Workload):
    """Two processes append records of one length to one log; one in so many is followed by fsync."""

    name = "append"
    record_bytes = 128
    size_max_bytes = 2 << 20

    def __init__(self, directory, seed):
        super().__init__(directory, seed)
        self.generation = 0
        self.is_there = False
        self.prefix = b""  # what was seen after the last recovery, and must stay
        self.next_number = [0, 0]

    def _record(self, writer, number):
        text = f"seed {self.seed:016x} log {self.generation} writer {writer} record {number:08} "
        return (text * 2)[: self.record_bytes - 1].ljust(
            self.record_bytes - 1, "="
        ).encode() + b"\n"

    def run(self, here, log, rng, is_ordered):
        if (
            not self.is_there
            or len(self.prefix) % self.record_bytes
            or len(self.prefix) > self.size_max_bytes
        ):
            self._start_log(here, log)
        in_two_processes(lambda writer, own_rng: self._append(here, log, own_rng, writer), log, rng)

    def _start_log(self, here, log):
        self.generation += 1
        self.next_number = [0, 0]
        log.write("new log", self.generation)
        for name in list_names(here):
            os.unlink(os.path.join(here, name))
        path = os.path.join(here, f"log-{self.generation}")
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        fsync_path(path)
        fsync_path(here)
        log.write("log exists")

    def _append(self, here, log, rng, writer):
        fd = os.open(os.path.join(here, f"log-{self.generation}"), os.O_WRONLY | os.O_APPEND)
        first = self.next_number[writer]
        for number in range(first, first + 3000):
            os.write(fd, self._record(writer, number))
            if rng.random() < 0.05:
                os.fsync(fd)
                log.write("durable", writer, number + 1)

    def verify(self, here, events, is_ordered):
        durable = list(self.next_number)
        for kind, *rest in events:
            if kind == "new log":
                self.generation, self.is_there, self.prefix = rest[0], False, b""
                self.next_number, durable = [0, 0], [0, 0]
            elif kind == "log exists":
                self.is_there = True
            elif kind == "durable":
                durable[rest[0]] = rest[1]
        name = f"log-{self.generation}"
        if name not in list_names(here):
            if self.is_there:
                yield f"{name} is missing, though it and its directory were fsynced"
            self.is_there = False
            return
        data = read_file(os.path.join(here, name))
        if not data.startswith(self.prefix):
            yield f"{name} lost or changed bytes that were there after the last recovery"
        yield from self._check_records(data, durable)
        self.prefix = data

    def _check_records(self, data, durable):
        """Whole records, each writer's in order and without a gap; zeros only behind everything
        durable.
        """
        zeros_at = None
        for at in range(len(self.prefix), len(data), self.record_bytes):
            record = data[at : at + self.record_bytes]
            if not any(record):
                zeros_at = at if zeros_at is None else zeros_at
                continue
            writer, number = self._parse(record)
            if writer is None:
                if len(record) == self.record_bytes or not self._record(0, 0).startswith(
                    record[:20]
                ):
                    yield f"at byte {at} is no record: {record[:80]!r}"
                    return
                continue
            wanted = self.next_number[writer]
            if number < wanted or (
                number > wanted and (zeros_at is None or wanted < durable[writer])
            ):
                yield f"at byte {at} writer {writer} has record {number}, expected {wanted}"
                return
            if zeros_at is not None and number < durable[writer]:
                yield f"zeros at byte {zeros_at}, before durable record {number} of writer {writer}"
                return
            self.next_number[writer] = number + 1
        for writer in range(2):
            if self.next_number[writer] < durable[writer]:
                yield (
                    f"{durable[writer]} records of writer {writer} were fsynced, "
                    f"{self.next_number[writer]} are there"
                )

    def _parse(self, record):
        """(writer, number) of a whole, right record of this log, else (None, None)."""
        try:
            words = record.split()
            writer, number = int(words[5]), int(words[7])
        except (IndexError, ValueError):
            return None, None
        is_right = writer in (0, 1) and record == self._record(writer, number)
        return (writer, number) if is_right else (None, None)
