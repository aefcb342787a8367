"""A PostgreSQL server for tests: its data in a mount, everything else beside it, run by nobody.

The server is started by itself, not through pg_ctl, so it belongs to the case and ends with it:
whatever kills its first process ends the others.
"""

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

from harness import NOBODY_UID, Failure, as_nobody, command, expect, expect_equal, is_running, log, wait_until

_TABLES = ("accounts", "tellers", "branches")


def programs():
    """The directory of the newest server that is installed, or None: Debian keeps it out of PATH."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if shutil.which("initdb"):
        found.append(Path(shutil.which("initdb")).parent)
    return max(found, key=lambda path: (len(str(path)), str(path)), default=None)


class Postgres:
    """A cluster with data checksums in `data`; sockets and the server's log are in `outside`."""

    def __init__(self, data, outside, settings=()):
        self.data = Path(data)
        self.outside = Path(outside)
        self.settings = settings
        self.process = None

    def create(self):
        os.chown(self.outside, NOBODY_UID, NOBODY_UID)
        self.data.mkdir(mode=0o700)
        os.chown(self.data, NOBODY_UID, NOBODY_UID)
        self.run(
            "initdb", "--data-checksums", "--auth=trust", "--username=test", "--encoding=UTF8",
            "--locale=C", "-D", self.data, timeout_s=150,
        )  # fmt: skip
        return self

    def run(self, program, *words, **how):
        """Runs one of PostgreSQL's programs as nobody and returns its Outcome."""
        environment = os.environ | {"PGHOST": str(self.outside), "PGUSER": "test", "LC_ALL": "C"}
        return command(
            programs() / program, *words,
            preexec_fn=as_nobody, cwd=self.outside, env=environment, **how,
        )  # fmt: skip

    def sql(self, statements, **how):
        return self.run("psql", "-qAtX", "-v", "ON_ERROR_STOP=1", "-c", statements, "postgres", **how).out

    def start(self):
        """Returns when the server answers, which is after it has recovered."""
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": self.outside,
            "fsync": "on",
            "synchronous_commit": "on",
            **dict(self.settings),
        }
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with open(self.outside / "server.log", "ab") as output:
            self.process = subprocess.Popen(
                [programs() / "postgres", "-D", self.data, *words],
                preexec_fn=as_nobody, cwd=self.outside, env=os.environ | {"LC_ALL": "C"},
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
        wait_until(self._answers, 100, "an answer of the server")
        return self

    def _answers(self):
        if self.process.poll() is not None:
            text = (self.outside / "server.log").read_text(errors="replace")
            raise Failure(f"the server ended with {self.process.returncode}: {text[-600:]}")
        return self.run("pg_isready", "-q", check=False).code == 0

    def stop(self):
        """In order: every session is ended, a checkpoint written."""
        self.process.send_signal(signal.SIGINT)
        expect_equal(self.process.wait(60), 0, "exit code of the server")

    def kill(self):
        """kill -9 of every process, the first one before the others. Returns when all are gone.

        Without the others: who waits for a lock of one that is dead does not notice its parent's end.
        """
        self.process.send_signal(signal.SIGSTOP)  # It makes no more of them.
        others = _children(self.process.pid)
        self.process.kill()
        for pid in others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(30)
        for pid in others:
            wait_until(lambda: not is_running(pid), 30, f"the end of server process {pid}")  # noqa: B023

    def bench(self, *words, **how):
        return self.run("pgbench", "--no-vacuum", *words, "postgres", **how)

    def expect_balanced(self):
        """TPC-B: what was moved is the same in every table, so each transaction is there whole."""
        history = self.sql("SELECT coalesce(sum(delta), 0) FROM pgbench_history").strip()
        for table in _TABLES:
            total = self.sql(f"SELECT sum({table[0]}balance) FROM pgbench_{table}").strip()
            expect_equal(total, history, f"sum of {table}, beside that of the history")

    def expect_sound(self):
        """What amcheck, and of a stopped server pg_checksums, find in every table and index."""
        self.run(
            "pg_amcheck", "--all", "--install-missing", "--heapallindexed", "--rootdescend", timeout_s=150
        )

    def expect_checksums(self):
        """Of a server that was stopped in order."""
        told = self.run("pg_checksums", "--check", "-D", self.data, timeout_s=100).out
        expect("Bad checksums:  0" in told, f"pg_checksums says {told}")


class Ledger:
    """A client that inserts 1, 2, 3 ... each in a transaction of its own, and remembers what the server
    has acknowledged. Runs beside the test until the server is gone.
    """

    def __init__(self, server, name):
        self.server = server
        self.name = name
        self.path = server.outside / f"acknowledged-{name}"
        self.pid = None
        server.sql(f"CREATE TABLE IF NOT EXISTS ledger_{name}(number int PRIMARY KEY, filler text)")

    def start(self):
        first = self.acknowledged() + 1
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._insert(first)
            except BaseException as error:
                log(f"ledger {self.name} ends: {error!r}")
            os._exit(0)

    def _insert(self, number):
        client = subprocess.Popen(
            [programs() / "psql", "-qAtX", "-h", self.server.outside, "-U", "test", "postgres"],
            cwd=self.server.outside, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        with open(self.path, "a", encoding="ascii", buffering=1) as acknowledged:
            while True:
                # One may be there that was committed and not acknowledged.
                client.stdin.write(
                    f"INSERT INTO ledger_{self.name} VALUES({number}, repeat('x', {number * 97 % 3000}))"
                    f" ON CONFLICT (number) DO UPDATE SET filler = excluded.filler RETURNING number;\n"
                )
                client.stdin.flush()
                answer = client.stdout.readline().strip()
                if answer != str(number):
                    return
                acknowledged.write(f"{number}\n")
                number += 1

    def join(self):
        os.waitpid(self.pid, 0)

    def acknowledged(self):
        return len(self.path.read_text().splitlines()) if self.path.exists() else 0

    def expect_all(self):
        """All that was acknowledged is there, and at most one more, whose answer was lost."""
        found = self.server.sql(
            f"SELECT count(*), coalesce(max(number), 0), count(*) FILTER "
            f"(WHERE length(filler) = number * 97 % 3000) FROM ledger_{self.name}"
        ).strip()
        wanted = self.acknowledged()
        expect(
            found in {f"{count}|{count}|{count}" for count in (wanted, wanted + 1)},
            f"of {wanted} acknowledged transactions of {self.name} there are (count, last, whole) {found}",
        )


def _children(pid):
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
