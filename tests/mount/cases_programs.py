"""Programs people run on their disks, each one checked against what it would have done elsewhere.
"""

import hashlib
import mmap
import os
import sqlite3

from case import case
from harness import command, expect, expect_equal, log, wait_until
from material import git, make_c_project, make_repository, make_tree
from snapshot import expect_same, portable, snapshot

GROUP = "programs"


@case(GROUP, "cp -a of /usr/include is the same under diff -r, also after a remount", timeout_s=400)
def copy_include(bench):
    copy = bench.dir / "include"
    command("cp", "-a", "/usr/include", copy, timeout_s=200)
    _diff("/usr/include", copy)
    before = snapshot(copy, with_content=False)
    bench.tree.remount()
    _diff("/usr/include", copy)
    expect_same(
        before, snapshot(copy, with_content=False), "modes, owners and times after the remount"
    )


def _diff(one, two):
    command("diff", "-r", "--no-dereference", one, two, timeout_s=200)


@case(
    GROUP,
    "git clone, a clone by hard links, a second work tree and gc leave what fsck accepts",
    needs=["git"],
)
def git_clone(bench):
    origin = bench.scratch / "origin"
    make_repository(origin, seed=1)
    git("clone", "-q", "--no-local", origin, "clone", cwd=bench.dir)
    git("clone", "-q", "--local", "clone", "second", cwd=bench.dir)
    bench.tree.remount()
    for name in ("clone", "second"):
        clone = bench.dir / name
        git("fsck", "--full", "--strict", cwd=clone, timeout_s=120)
        expect_equal(git("status", "--porcelain", cwd=clone).out, "", f"git status of {name}")
        expect_equal(
            git("rev-parse", "HEAD", "v1", cwd=clone).out,
            git("rev-parse", "HEAD", "v1", cwd=origin).out,
            f"commits of {name}",
        )
    (bench.dir / "clone" / "new").write_text("more\n")
    git("add", "--all", cwd=bench.dir / "clone")
    git("commit", "-q", "-m", "one more", cwd=bench.dir / "clone")
    git("worktree", "add", "-q", "-b", "beside", bench.dir / "tree", "v1", cwd=bench.dir / "clone")
    (bench.dir / "tree" / "new").write_text("beside\n")
    git("add", "--all", cwd=bench.dir / "tree")
    git("commit", "-q", "-m", "from the other tree", cwd=bench.dir / "tree")
    git("gc", "-q", "--aggressive", "--prune=now", cwd=bench.dir / "clone", timeout_s=120)
    bench.tree.remount()
    for name in ("clone", "tree"):
        git("fsck", "--full", "--strict", cwd=bench.dir / name, timeout_s=120)
        expect_equal(git("status", "--porcelain", cwd=bench.dir / name).out, "", f"git status of {name}")
    expect_equal(
        git("log", "-1", "--format=%s", "beside", cwd=bench.dir / "clone").out,
        "from the other tree\n",
        "the commit of the other tree",
    )


@case(
    GROUP,
    "tar carries a tree with links, holes and attributes in and out unchanged",
    needs=["tar", "root"],
)
def tar_round_trip(bench):
    source, archive, second = (
        bench.scratch / "tree",
        bench.scratch / "in.tar",
        bench.scratch / "out.tar",
    )
    make_tree(source, seed=2, with_specials=True)
    tar = ("tar", "--xattrs", "--xattrs-include=user.*", "--sparse", "--format=posix")
    command(*tar, "-cf", archive, "-C", bench.scratch, "tree")
    command(*tar, "-xpf", archive, "-C", bench.dir)
    expect_same(
        portable(snapshot(source)), portable(snapshot(bench.dir / "tree")), "the extracted tree"
    )
    command(*tar, "--compare", "-f", archive, "-C", bench.dir)
    bench.tree.remount()
    command(*tar, "-cf", second, "-C", bench.dir, "tree")
    back = bench.scratch / "back"
    back.mkdir()
    command(*tar, "-xpf", second, "-C", back)
    expect_same(
        portable(snapshot(source)), portable(snapshot(back / "tree")), "the tree that came back"
    )


@case(
    GROUP,
    "rsync -aHAX transfers everything once and nothing the second time",
    needs=["rsync", "root"],
)
def rsync_twice(bench):
    source, copy = bench.scratch / "tree", bench.dir / "copy"
    make_tree(source, seed=3, with_specials=True)
    rsync = ("rsync", "-aHAX", "--sparse", "--itemize-changes", f"{source}/", f"{copy}/")
    command(*rsync)
    expect_same(_without_link_times(source), _without_link_times(copy), "the copy")
    expect_equal(command(*rsync).out, "", "what the second run transferred")
    bench.tree.remount()
    expect_equal(command(*rsync).out, "", "what a run after the remount transferred")
    expect_equal(
        command(*rsync, "--checksum").out, "", "what a run that reads everything transferred"
    )
    with open(source / "sparse", "ab") as file:
        file.write(b"more")
    expect_equal(len(command(*rsync).out.splitlines()), 1, "files transferred after one changed")


def _without_link_times(root):
    """rsync 3.5 of Debian 12 leaves the times of symbolic links and fifos alone, on xfs and ext4
    too.
    """
    entries = portable(snapshot(root))
    for entry in entries.values():
        if entry["type"] not in "d-":
            del entry["mtime_ns"]
    return entries


@case(
    GROUP,
    "ninja builds a project inside the mount and knows afterwards what is up to date",
    needs=["ninja", "cc"],
    timeout_s=240,
)
def ninja_build(bench):
    project = bench.dir / "project"
    answer = make_c_project(project)
    command("ninja", "-C", project, timeout_s=150)
    expect_equal(command(project / "out" / "program").out, f"{answer}\n", "output of the program")
    expect("no work to do" in command("ninja", "-C", project).out, "a second ninja found work")
    bench.tree.remount()
    expect(
        "no work to do" in command("ninja", "-C", project).out, "ninja found work after the remount"
    )
    with open(project / "src" / "module_3.c", "a", encoding="ascii") as file:
        file.write("int one_more;\n")
    expect(
        "[2/2]" in command("ninja", "-C", project).out, "a changed module did not cause two steps"
    )


def _sqlite_case(mode):
    @case(
        GROUP,
        f"sqlite3 keeps its data in journal mode {mode}, with two writers",
        needs=["sqlite3"],
        timeout_s=200,
    )
    def run(bench):
        path = bench.dir / "data.db"
        rows = 300 if bench.quick else 3000
        _sqlite(
            path,
            f"PRAGMA journal_mode={mode}; CREATE TABLE item(id INTEGER PRIMARY KEY, writer, body BLOB);",
        )
        _run_beside_each_other(
            [lambda writer=writer: _insert_rows(path, writer, rows) for writer in range(2)]
        )
        _sqlite(path, "DELETE FROM item WHERE id % 7 = 0; VACUUM;")
        wanted = _sqlite(path, "SELECT count(*), sum(length(body)) FROM item;")
        bench.tree.remount()
        expect_equal(_sqlite(path, "PRAGMA integrity_check;"), "ok\n", "integrity check")
        expect_equal(_sqlite(path, "PRAGMA journal_mode;"), f"{mode.lower()}\n", "journal mode")
        expect_equal(
            _sqlite(path, "SELECT count(*), sum(length(body)) FROM item;"), wanted, "rows and bytes"
        )
        expect_equal(wanted.split("|")[0], str(2 * rows - 2 * rows // 7), "rows")

    return run


for _mode in ("DELETE", "WAL"):
    _sqlite_case(_mode)


def _sqlite(path, statements):
    return command("sqlite3", "-cmd", ".timeout 30000", path, statements).out


def _insert_rows(path, writer, count):
    database = sqlite3.connect(path, timeout=60, isolation_level=None)
    for number in range(count):
        database.execute(
            "INSERT INTO item(writer, body) VALUES(?, randomblob(?))",
            (writer, 100 + number * 7 % 5000),
        )
    database.close()


def _run_beside_each_other(works, meanwhile=lambda: None):
    """Runs each of `works` in a process of its own and `meanwhile` in this one; all must succeed."""
    pids = []
    for work in works:
        pids.append(os.fork())
        if pids[-1] == 0:
            code = 1
            try:
                work()
                code = 0
            except BaseException as error:
                log(f"in a forked process: {error!r}")
            os._exit(code)
    meanwhile()
    for pid in pids:
        _, status = os.waitpid(pid, 0)
        expect_equal(
            os.waitstatus_to_exitcode(status), 0, "exit code of a forked process, see the log"
        )


@case(GROUP, "two processes that append with O_APPEND lose no record and mix none")
def two_appenders(bench):
    path = bench.dir / "log"
    count = 5000 if bench.quick else 50_000
    path.touch()

    def append(writer):
        fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        for number in range(count):
            # Lengths from 20 to 219: records straddle blocks and pages.
            os.write(
                fd, f"{writer} {number:08} {'x' * (number % 200)}".ljust(20, ".").encode() + b"\n"
            )

    _run_beside_each_other([lambda: append(0), lambda: append(1)])
    bench.tree.remount()
    next_number = [0, 0]
    for line in path.read_text().splitlines():
        writer, number = int(line[0]), int(line[2:10])
        expect_equal(number, next_number[writer], f"next record of writer {writer}")
        expect_equal(
            line, f"{writer} {number:08} {'x' * (number % 200)}".ljust(20, "."), "a record"
        )
        next_number[writer] += 1
    expect_equal(next_number, [count, count], "records")


@case(GROUP, "a file mapped by two processes is one memory, and reads and writes see it")
def shared_mapping(bench):
    path = bench.write("mapped", bytes(1 << 20))
    rounds = 200

    def answer():
        memory = mmap.mmap(os.open(path, os.O_RDWR), 0)
        for number in range(1, rounds + 1):
            wait_until(lambda: memory[0] == number % 256, 20, f"ping {number}", step_s=0)
            memory[number * 4096 : number * 4096 + 8] = number.to_bytes(8, "little")
            memory[4095] = number % 256
        memory.flush()

    fd = os.open(path, os.O_RDWR)
    memory = mmap.mmap(fd, 0)

    def ask():
        for number in range(1, rounds + 1):
            memory[0] = number % 256
            wait_until(lambda: memory[4095] == number % 256, 20, f"answer {number}", step_s=0)

    _run_beside_each_other([answer], meanwhile=ask)
    expect_equal(os.pread(fd, 8, 77 * 4096), (77).to_bytes(8, "little"), "read() of a mapped write")
    os.pwrite(fd, b"written", 250 * 4096)
    expect_equal(memory[250 * 4096 : 250 * 4096 + 7], b"written", "mapped view of a write()")
    wanted = hashlib.sha256(memory).hexdigest()
    memory.flush()
    memory.close()
    os.close(fd)
    bench.tree.remount()
    expect_equal(hashlib.sha256(path.read_bytes()).hexdigest(), wanted, "hash after the remount")


@case(GROUP, "dd oflag=direct writes and iflag=direct reads what cmp finds equal", needs=["dd"])
def dd_direct(bench):
    source = bench.scratch / "source"
    source.write_bytes(bench.random_bytes(24 * 1024 * 1024 + 512))
    for block in ("4096", "64K", "1M", "3M"):
        copy, back = bench.dir / f"copy-{block}", bench.scratch / "back"
        command("dd", f"if={source}", f"of={copy}", f"bs={block}", "oflag=direct", "conv=fsync")
        command("cmp", source, copy)
        command("dd", f"if={copy}", f"of={back}", f"bs={block}", "iflag=direct")
        command("cmp", source, back)
    bench.tree.remount()
    command("cmp", source, bench.dir / "copy-64K")


@case(
    GROUP,
    "fio finds every block it wrote at random, buffered and direct",
    needs=["fio"],
    timeout_s=300,
)
def fio_verify(bench):
    runtime_s = 60
    common = (
        "--rw=randrw",
        "--bsrange=4k-64k",
        "--bs_unaligned=0",
        "--size=96m",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--verify_backlog=512",
        "--time_based",
        f"--runtime={runtime_s}",
        f"--directory={bench.dir}",
        "--minimal",
        "--randrepeat=0",
    )
    # Both run at once: half of the jobs go through the page cache and half around it.
    command(
        "fio",
        *common,
        "--name=buffered",
        "--ioengine=psync",
        "--fsync=200",
        "--name=direct",
        "--ioengine=psync",
        "--direct=1",
        "--numjobs=2",
        timeout_s=runtime_s + 120,
        cwd=bench.scratch,
    )
