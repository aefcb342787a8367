"""What others count of a daemon's work: the kernel of its disks, strace of its system calls."""
import os
import pathlib
import re
import signal
import subprocess

SECTOR_BYTES = 512


def disk_counters(disks):
    """What the kernel has counted since these block devices were made, over all of them.

    Documentation/block/stat.rst. Writes count flushes too: the kernel counts an empty flush as a write
    of no bytes, but not the flush behind a durable write. Adjacent requests may be merged before they are
    counted, and large ones cut.
    """
    places = {"reads": (0, 1), "read_bytes": (2, SECTOR_BYTES), "writes": (4, 1), "write_merges": (5, 1),
              "written_bytes": (6, SECTOR_BYTES), "flushes": (15, 1)}
    totals = dict.fromkeys(places, 0)
    for disk in disks:
        fields = pathlib.Path(f"/sys/block/{os.path.basename(disk)}/stat").read_text().split()
        for name, (place, unit) in places.items():
            totals[name] += int(fields[place]) * unit
    return totals


class Strace:
    """System calls of a process and all its threads, from `with` to its end."""

    def __init__(self, pid, output):
        self.pid, self.output, self.calls = pid, output, {}

    def __enter__(self):
        self.process = subprocess.Popen(
            ["strace", "-f", "-c", "-U", "name,calls", "-o", str(self.output), "-p", str(self.pid)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            start_new_session=True)
        line = self.process.stderr.readline()
        if "attached" not in line:
            self.process.wait()
            raise RuntimeError(f"strace could not attach to the daemon: {line.strip()}")
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGINT)
        self.process.wait()
        self.process.stderr.close()
        for line in self.output.read_text().splitlines():
            match = re.fullmatch(r"(\w+)\s+(\d+)\s*", line.strip())
            if match and match[1] != "total":
                self.calls[match[1]] = int(match[2])
