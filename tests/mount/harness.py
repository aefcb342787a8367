"""What every mount test stands on: a private workspace, commands and children that cannot hang the
suite, and the probing of abilities.

A test that talks to a user-space file system may sleep in the kernel for ever. So every case runs
in a child process with a deadline, every command has a time limit, and whoever waits in vain ends
our daemons first, which wakes all sleepers with an error. Nothing that this program did not start
is ever killed or unmounted: mounts and loop devices are ours when they lie below the workspace.
"""

import ctypes
import json
import os
import pickle
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from fuse_rings import can_be_offered

NOBODY_UID = 65534


class Failure(Exception):
    """What was promised did not happen; the text says what did."""


class Skip(Exception):
    """The machine lacks an ability that the case needs; the text names it."""


class Hang(Failure):
    """Something did not end within its time."""


def expect(condition, message):
    """Ends the case with `message` unless `condition` holds."""
    if not condition:
        raise Failure(message)


def expect_equal(actual, wanted, what):
    if actual != wanted:
        raise Failure(f"{what}: {shown(actual)}, expected {shown(wanted)}")


def shown(value, length_max=300):
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= length_max else text[:length_max] + " ..."


def wait_until(condition, timeout_s, what, step_s=0.05):
    """Returns the first true value of `condition()`; Failure naming `what` when none comes in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Failure(f"{what} did not happen within {timeout_s} s")
        time.sleep(step_s)


# Commands


@dataclass
class Outcome:
    argv: list
    code: int
    out: str
    err: str

    @property
    def text(self):
        """Both streams, for looking for words in them."""
        return self.out + self.err

    def __str__(self):
        return (
            f"`{' '.join(self.argv)}` exited {self.code}: {shown((self.err or self.out).strip())}"
        )


_log_path = None


def log_to(path):
    """From now on commands of this process write what they did to the end of `path`."""
    global _log_path
    _log_path = path


def log(text):
    if _log_path is not None:
        with open(_log_path, "a", encoding="utf-8", errors="replace") as file:
            file.write(f"{time.strftime('%H:%M:%S')} {text}\n")


def command(*argv, timeout_s=60, check=True, stdin=None, **popen):
    """Runs a program to its end and returns its Outcome.

    Output goes through files: a daemon that inherits a pipe would keep us waiting for its end. With
    `check`, an exit code other than 0 is a Failure. When the time is over the process group is
    killed and Hang raised.
    """
    argv = [str(word) for word in argv]
    started = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        feed = subprocess.DEVNULL if stdin is None else subprocess.PIPE
        try:
            process = subprocess.Popen(
                argv, stdin=feed, stdout=out, stderr=err, process_group=0, **popen
            )
        except FileNotFoundError as missing:
            raise Failure(f"cannot start {argv[0]}: {missing}") from missing
        try:
            process.communicate(stdin, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            _kill_group(process)
            log(f"{' '.join(argv)}: no end after {timeout_s} s")
            raise Hang(f"`{shown(' '.join(argv))}` did not end within {timeout_s} s") from None
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode(errors="replace"))
    outcome = Outcome(argv, process.returncode, *texts)
    log(
        f"[{time.monotonic() - started:.2f} s] {' '.join(argv)} -> {outcome.code}\n{shown(outcome.text, 4000)}"
    )
    if check and outcome.code != 0:
        raise Failure(str(outcome))
    return outcome


def _kill_group(process):
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        pass  # Asleep in the kernel; it goes when the mount is torn down.


def die_with_parent():
    """For children that must not outlive us, whatever ends us: the kernel kills them with the
    parent.
    """
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def as_nobody():
    """A preexec function: the program runs without any privilege."""
    os.setgroups([])
    os.setgid(NOBODY_UID)
    os.setuid(NOBODY_UID)


# Children with a deadline


def in_child(work, timeout_s, on_hang):
    """Runs `work()` in a forked child and returns its (pickled) value.

    Failure, Skip and every other exception come back as themselves or as Failure with the trace.
    When the time is over, `on_hang()` is called to wake whoever sleeps in a mount, and Hang is
    raised. Whatever the child leaves running in its session is killed.
    """
    read_fd, write_fd = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read_fd)
            os.setsid()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            _report(write_fd, work)
        finally:
            os._exit(1)  # Whatever happened, this process must not go on as a second parent.
    os.close(write_fd)
    try:
        answer = _read_answer(read_fd, time.monotonic() + timeout_s)
        if answer is None:
            on_hang()
            raise Hang(f"no end after {timeout_s:.0f} s")
    finally:
        os.close(read_fd)
        _end_session(pid)
    kind, value = pickle.loads(answer) if answer else ("failure", "the test process died")
    if kind == "value":
        return value
    raise {"skip": Skip, "hang": Hang}.get(kind, Failure)(value)


def beside_each_other(works):
    """Runs each of `works` in a process of its own, all at once, and returns their (pickled) values. The first
    failure ends the case.
    """
    readers = []
    for work in works:
        read_fd, write_fd = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(read_fd)
                _report(write_fd, work)
            finally:
                os._exit(1)
        os.close(write_fd)
        readers.append((pid, read_fd))
    values = []
    for pid, read_fd in readers:
        # The case has a deadline, and ends them with it.
        answer = _read_answer(read_fd, time.monotonic() + 3600)
        kind, value = pickle.loads(answer) if answer else ("failure", "a forked process died")
        os.close(read_fd)
        os.waitpid(pid, 0)
        if kind != "value":
            raise Failure(value)
        values.append(value)
    return values


def _report(write_fd, work):
    try:
        answer = ("value", work())
    except Skip as skip:
        answer = ("skip", str(skip))
    except Hang as hang:
        answer = ("hang", str(hang))
    except Failure as failure:
        answer = ("failure", str(failure))
    except BaseException as error:
        log(traceback.format_exc())
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{os.path.basename(where.filename)}:{where.lineno}"
        answer = ("failure", f"{type(error).__name__}: {error} ({place})")
    payload = pickle.dumps(answer)
    with os.fdopen(write_fd, "wb") as pipe:
        pipe.write(len(payload).to_bytes(8, "little") + payload)


def _read_answer(read_fd, deadline):
    """The child's bytes, b"" when it died without any, None when the time is over.

    The length in front matters: a grandchild that still holds the pipe must not keep us waiting.
    """
    received = b""
    while True:
        ready, _, _ = select.select([read_fd], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            return None
        piece = os.read(read_fd, 1 << 16)
        received += piece
        if len(received) >= 8 and len(received) >= 8 + int.from_bytes(received[:8], "little"):
            return received[8:]
        if not piece:
            return b""


def _end_session(pid):
    """Kills what is left of the session that child `pid` leads, and reaps the child."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for member in _session_members(pid):
            try:
                os.kill(member, signal.SIGKILL)
            except ProcessLookupError:
                pass
        done, _ = os.waitpid(pid, os.WNOHANG)
        if done:
            return
        time.sleep(0.02)


def _session_members(session):
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = _stat_fields(int(entry))
            if fields and int(fields[3]) == session:
                yield int(entry)


def _stat_fields(pid):
    """Fields of /proc/PID/stat from `state` on (the name before may hold spaces); None when gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None


def is_running(pid):
    fields = _stat_fields(pid)
    return fields is not None and fields[0] not in "ZX"


# The workspace


def _is_below(path, directory):
    return (str(path) + "/").startswith(str(directory) + "/")


def _daemons_called_with(below):
    """A daemon whose mount command failed half way is known only by what it was called with."""
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        called = {os.path.basename(word) for word in words[:2]}
        if b"dynamicfs" in called and any(
            os.fsencode(below) + b"/" in word + b"/" for word in words
        ):
            yield int(entry)


def mounts_below(path):
    """(mountpoint, major:minor) of every mount at or below `path`, the innermost first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        point = fields[4].encode().decode("unicode_escape")
        if _is_below(point, path):
            found.append((point, fields[2]))
    return sorted(found, key=lambda mount: len(mount[0]), reverse=True)


def loops_below(path):
    """Loop devices whose backing file lies below `path`."""
    for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            if _is_below(entry.read_text().strip(), path):
                yield "/dev/" + entry.parts[3]
        except OSError:
            pass  # Detached meanwhile.


class Workspace:
    """A private directory that knows how to end and remove everything made below it.

    What has to be ended is asked from the kernel, and noted in a file for the processes, so it
    holds for things made by a child that was killed.
    """

    def __init__(self):
        self.path = Path(tempfile.mkdtemp(prefix="dynamicfs-mount-"))
        self.path.chmod(0o755)  # Some cases come as an unprivileged user.
        self._processes = self.path / "processes"
        self._daemon_logs = self.path / "daemon-logs"

    def directory(self, *parts):
        path = self.path.joinpath(*parts)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def note_process(self, pid, below):
        """Remembers a daemon that serves the pool in directory `below`."""
        fields = _stat_fields(pid)
        if fields:
            note = {"pid": pid, "start": fields[19], "below": str(below)}
            with open(self._processes, "a", encoding="utf-8") as file:
                file.write(json.dumps(note) + "\n")

    def note_daemon_log(self, path):
        """Remembers where a daemon of ours writes: its log is ours to keep or to delete."""
        with open(self._daemon_logs, "a", encoding="utf-8") as file:
            file.write(f"{path}\n")

    def collect_daemon_logs(self, delete=False):
        """Copies the logs of all our daemons into the workspace, or deletes them where they are."""
        if not self._daemon_logs.exists():
            return
        for path in set(self._daemon_logs.read_text().split()):
            if delete:
                Path(path).unlink(missing_ok=True)
            elif os.path.exists(path):
                shutil.copy(path, self.directory("logs", "daemons"))

    def kill_processes(self, below):
        """SIGKILL to every daemon of a pool below `below`; the start time tells a reused pid."""
        ours = set(_daemons_called_with(below))
        if self._processes.exists():
            for line in self._processes.read_text().splitlines():
                noted = json.loads(line)
                fields = _stat_fields(noted["pid"])
                if _is_below(noted["below"], below) and fields and fields[19] == noted["start"]:
                    ours.add(noted["pid"])
        for pid in ours:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def wake_sleepers(self):
        """Makes every request that waits in one of our mounts fail, so that its process can die."""
        self.kill_processes(self.path)
        for point, device in mounts_below(self.path):
            abort = Path("/sys/fs/fuse/connections", device.split(":")[1], "abort")
            if device.startswith("0:") and abort.exists():
                abort.write_text("1")
            elif device.startswith("0:"):  # fusectl is not mounted
                command("umount", "--force", point, check=False, timeout_s=20)
            log(f"tearing down {point}")

    def release(self, below=None):
        """Ends everything that runs, is mounted or attached below a directory of the workspace."""
        path = self.path if below is None else below
        self.kill_processes(path)
        for attempt in range(
            4
        ):  # A mount on a loop device on a mount on a loop device: one layer a pass.
            lazily = ["--lazy"] if attempt >= 2 else []
            for point, _ in mounts_below(path):
                command("umount", *lazily, point, check=False, timeout_s=20)
            loops = list(loops_below(path))
            for loop in loops:
                command("losetup", "--detach", loop, check=False, timeout_s=20)
            if not mounts_below(path) and not loops:
                break

    def remove(self, below=None):
        """Releases a directory of the workspace, or all of it, and deletes it."""
        self.release(below)
        path = self.path if below is None else below
        if below is None:
            self.collect_daemon_logs(delete=True)
        if not mounts_below(path):
            shutil.rmtree(path, ignore_errors=True)


# Abilities


def _has_loop():
    return os.path.exists("/dev/loop-control") and os.geteuid() == 0 and shutil.which("losetup")


def _has_fuse():
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
        return True
    except OSError:
        return False


def _has_file_system(name):
    return any(
        line.split()[-1] == name for line in Path("/proc/filesystems").read_text().splitlines()
    )


def _has_namespaces():
    if not shutil.which("unshare"):
        return False
    return (
        subprocess.run(["unshare", "--mount", "true"], capture_output=True, timeout=20).returncode
        == 0
    )


def _has_postgresql():
    from postgres import programs

    return programs() is not None


_probes = {
    "root": lambda: os.geteuid() == 0,
    "/dev/fuse": _has_fuse,
    "FUSE over io_uring": can_be_offered,
    "loop devices": _has_loop,
    "xfs": lambda: _has_loop() and _has_file_system("xfs") and shutil.which("mkfs.xfs"),
    "mount namespaces": _has_namespaces,
    "postgresql": _has_postgresql,
}
_probed = {}


def require(*abilities):
    """Skips the case unless the machine has every ability: one of the probes, or a program's name."""
    for ability in abilities:
        if ability not in _probed:
            probe = _probes.get(ability, lambda: shutil.which(ability))
            _probed[ability] = bool(probe())
        if not _probed[ability]:
            raise Skip(f"no {ability} on this machine")
