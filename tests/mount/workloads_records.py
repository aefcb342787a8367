"""The crash oracle's workloads that commit: a git repository and sqlite databases."""

import os
import shutil
import sqlite3

from material import git, make_repository
from syscalls import fsync_path, fsync_tree
from workload import Workload, list_names


class GitCommits(Workload):
    """A clone, then one commit after another with git's own fsync on; a durable commit and all it
    needs stays.
    """

    name = "git"
    needs = ("git",)
    self_test_s = 3
    _settings = (
        "-c",
        "core.fsync=all",
        "-c",
        "core.fsyncMethod=fsync",
        "-c",
        "core.logAllRefUpdates=false",
    )

    def __init__(self, directory, seed):
        super().__init__(directory, seed)
        self.clone = None  # the durable clone's name
        self.commit = None  # the newest durable commit
        self.begun = 0
        self.origin = None

    def prepare(self, materials):
        self.origin = os.path.join(materials, "origin")
        if not os.path.exists(self.origin):
            make_repository(self.origin, seed=1)

    def _git(self, *arguments, cwd):
        outcome = git(*self._settings, *arguments, cwd=cwd, check=False)
        if outcome.code != 0:
            raise OSError(f"{outcome}")
        return outcome.out.strip()

    def run(self, here, log, rng, is_ordered):
        clone = os.path.join(here, self.clone or "")
        if self.clone is None:
            name = f"clone-{self.begun + 1}"
            log.write("clone begun", self.begun + 1)
            for old in list_names(here):
                shutil.rmtree(os.path.join(here, old))
            clone = os.path.join(here, name)
            self._git("clone", "-q", "--no-local", self.origin, clone, cwd=here)
            fsync_tree(clone)
            fsync_path(here)
            log.write("clone durable", name, self._git("rev-parse", "HEAD", cwd=clone))
        for lock in ("index.lock", "HEAD.lock", "refs/heads/main.lock"):
            if os.path.exists(os.path.join(clone, ".git", lock)):
                os.unlink(os.path.join(clone, ".git", lock))
        for number in range(60):
            with open(os.path.join(clone, f"new-{rng.randrange(20)}"), "wb") as file:
                file.write(rng.randbytes(rng.randrange(1, 30_000)))
            self._git("add", "--all", cwd=clone)
            self._git("commit", "-q", "-m", f"change {number}", cwd=clone)
            commit = self._git("rev-parse", "HEAD", cwd=clone)
            fsync_tree(os.path.join(clone, ".git"))
            log.write("commit durable", commit)

    def verify(self, here, events, is_ordered):
        for kind, *rest in events:
            if kind == "clone begun":
                self.begun, self.clone, self.commit = rest[0], None, None
            elif kind == "clone durable":
                self.clone, self.commit = rest
            elif kind == "commit durable":
                self.commit = rest[0]
        if self.clone is None:
            return
        clone = os.path.join(here, self.clone)
        try:
            self._git("merge-base", "--is-ancestor", self.commit, "HEAD", cwd=clone)
            self._git("fsck", "--full", "--no-dangling", cwd=clone)
            self._git("archive", "--format=tar", "-o", "/dev/null", "HEAD", cwd=clone)
        except OSError as error:
            yield f"commit {self.commit} was durable: {error}"


class Sqlite(Workload):
    """Transactions of a few rows each; every committed one is there whole, and no half of any
    other.
    """

    mode = ""

    def __init__(self, directory, seed):
        super().__init__(directory, seed)
        self.committed = 0  # transactions that must be there
        self.begun = 0  # and those that may be
        self.is_there = False

    def run(self, here, log, rng, is_ordered):
        database = sqlite3.connect(os.path.join(here, "data.db"), timeout=30, isolation_level=None)
        database.execute(f"PRAGMA journal_mode={self.mode}")
        # FULL does not make the deletion of the rollback journal durable, which is the commit;
        # EXTRA does.
        database.execute("PRAGMA synchronous=EXTRA")
        database.execute("CREATE TABLE IF NOT EXISTS item(batch INTEGER, part INTEGER, body BLOB)")
        fsync_path(here)
        log.write("exists")
        for batch in range(self.begun + 1, self.begun + 400):
            log.write("begun", batch)
            database.execute("BEGIN IMMEDIATE")
            for part in range(1 + batch % 5):
                database.execute(
                    "INSERT INTO item VALUES(?, ?, ?)", (batch, part, _body(batch, part))
                )
            if batch % 10 == 0:
                database.execute("DELETE FROM item WHERE batch <= ?", (batch - 100,))
            database.execute("COMMIT")
            # sqlite itself takes it for success when it cannot open the directory to sync it, so a
            # commit that returns while the daemon dies may not be one.
            fsync_path(here)
            log.write("committed", batch)

    def verify(self, here, events, is_ordered):
        for kind, *rest in events:
            if kind == "exists":
                self.is_there = True
            elif kind == "begun":
                self.begun = rest[0]
            elif kind == "committed":
                self.committed = rest[0]
        if not self.is_there:
            return
        if "data.db" not in list_names(here):
            yield "data.db is missing"
            return
        try:
            yield from self._check(os.path.join(here, "data.db"))
        except sqlite3.Error as error:
            yield f"sqlite: {error}"

    def _check(self, path):
        database = sqlite3.connect(path, timeout=30)
        answer = database.execute("PRAGMA integrity_check").fetchall()
        if answer != [("ok",)]:
            yield f"integrity_check: {answer[:3]}"
        newest = database.execute("SELECT max(batch) FROM item").fetchone()[0] or 0
        if not self.committed <= newest <= self.begun:
            yield f"the newest transaction is {newest}; {self.committed} was committed, {self.begun} begun"
        first = max(1, newest // 10 * 10 - 99)
        rows = database.execute(
            "SELECT batch, part, body FROM item ORDER BY batch, part"
        ).fetchall()
        wanted = [
            (batch, part) for batch in range(first, newest + 1) for part in range(1 + batch % 5)
        ]
        if [row[:2] for row in rows] != wanted:
            yield f"{len(rows)} rows are there, {len(wanted)} belong to transactions {first} to {newest}"
        elif any(body != _body(batch, part) for batch, part, body in rows):
            yield "a row's bytes are wrong"
        database.close()
        self.committed = self.begun = newest


def _body(batch, part):
    return f"{batch}/{part} ".encode() * (20 + batch * 37 % 600)


class SqliteDelete(Sqlite):
    name = "sqlite-delete"
    mode = "DELETE"


class SqliteWal(Sqlite):
    name = "sqlite-wal"
    mode = "WAL"
