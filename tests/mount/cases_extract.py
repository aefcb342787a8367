"""`extract`: what comes out of pools that are whole, short of disks, rotten, and refused by a mount."""

import json
import os
import stat
import tempfile

from case import OWN_POOLS, case
from cases_archives import access_lists, pool_with_acl, source_with_everything
from cases_check import JOURNAL_OFFSET, SUPERBLOCK_BYTES, fingerprint, spoil
from cases_corruption import (
    BLOCK_BYTES,
    DISK_BYTES,
    Victim,
    data_pieces,
    expect_all_copies,
    flip_bytes,
    last_metadata_block,
    two_disks,
)
from harness import as_nobody, command, expect, expect_equal
from snapshot import expect_same, snapshot
from targets import (
    EXIT_AT_RISK,
    EXIT_DEGRADED,
    EXIT_DISK_MISSING,
    EXIT_ALREADY_MOUNTED,
    EXIT_NOT_A_DISK,
    EXIT_SPLIT_BRAIN,
    EXIT_USAGE,
    MIB,
    directory_disk,
    dynamicfs,
    expect_refusal,
    image_disk,
)

GROUP = "extract"


class Extracted:
    """One run into a new directory: its outcome, the directory, and the report for programs."""

    def __init__(self, bench, disks, code, *words, timeout_s=120):
        self.root = bench.scratch / f"out-{len(os.listdir(bench.scratch))}"
        report = self.root.with_name(self.root.name + ".json")
        before = fingerprint(disks)
        self.outcome = dynamicfs(
            "extract",
            *words,
            "--to",
            self.root,
            "--report",
            report,
            *[disk.path for disk in disks],
            timeout_s=timeout_s,
        )
        self.text = self.outcome.out
        codes = code if isinstance(code, tuple) else (code,)
        expect(self.outcome.code in codes, f"{self.outcome}; expected exit code {code}, having said {self.text!r}")
        expect_equal(fingerprint(disks), before, "what is on the disks behind an extract")
        report = json.loads(report.read_text())
        self.summary = report["summary"]
        self.files = {one["path"]: one for one in report["files"]}
        expect_equal(self.summary["exit_code"], self.outcome.code, "exit_code of the report")
        for path, one in self.files.items():
            expect(one["kind"] == "attributes" or path in self.text, f"{path} is in the report and not in {self.text!r}")

    def says(self, *texts):
        for text in texts:
            expect(text in self.text, f"{text!r} is missing in {self.text!r}")

    def expect_file(self, name, content):
        """Every byte is right, or in a range that is told as missing, where there is a hole. Returns how
        many bytes came out; None: the file did not, and that is told.
        """
        told = self.files.get(f"/{name}")
        if not (self.root / name).exists():
            expect(told is not None and told["kind"] == "missing", f"{name} is not there, and nobody tells")
            return None
        found = (self.root / name).read_bytes()
        expect_equal(len(found), len(content), f"size of {name}")
        expected = bytearray(content)
        missing = 0
        for part in told["missing_ranges"] if told and told["kind"] == "incomplete" else ():
            end = part["offset"] + part["length"]
            expected[part["offset"] : end] = bytes(part["length"])
            missing += part["length"]
        expect(found == bytes(expected), f"{name} has wrong bytes, {missing} are told as missing")
        return len(content) - missing


@case(
    GROUP,
    "a whole pool comes out as it was: names, owners, modes, times, attributes, lists, links, holes, devices",
    where=OWN_POOLS,
    needs=["root", "rsync", "setfacl"],
    timeout_s=300,
)
def round_trip(bench):
    pool = pool_with_acl(bench)
    source = source_with_everything(bench)
    command("rsync", "-aHAXS", "--numeric-ids", f"{source}/", f"{pool.root}/tree/")
    os.mknod(pool.root / "socket", 0o600 | stat.S_IFSOCK)
    (pool.root / "large").write_bytes(bench.random_bytes(21 * MIB + 7))
    (pool.root / "many").mkdir()
    for number in range(1500):
        (pool.root / "many" / f"name {number}\n\t\\").write_bytes(b"%d" % number)
    deep = pool.root / "deep"
    for number in range(400):
        deep.mkdir(mode=0o711)
        deep = deep / "d"
    with open(pool.root / "reserved", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 3 * MIB)
        file.truncate(5 * MIB + 1)
    os.utime(pool.root / "many", ns=(-5, -1_500_000_000))
    (pool.root / "lost+found").mkdir()
    os.chmod(pool.root, 0o1770)
    os.chown(pool.root, 5, 6)
    before, lists = snapshot(pool.root), access_lists(pool.root)
    expect_refusal(
        dynamicfs("extract", "--to", bench.scratch / "no", pool.disks[0].path),
        EXIT_ALREADY_MOUNTED,
        pool.root,
    )
    pool.umount()
    out = Extracted(bench, pool.disks, 0)
    out.says("Everything came out.")
    after = snapshot(out.root)
    for entries in (before, after):
        for entry in entries.values():
            if entry["type"] == "d":  # counted and measured by each file system in its own way
                del entry["size"], entry["nlink"]
    expect_same(before, after, "what came out")
    expect_equal(access_lists(out.root), lists, "access control lists of what came out")
    for name in ("tree/sparse", "reserved"):
        expect(os.stat(out.root / name).st_blocks * 512 < MIB, f"the hole of {name} is filled")
    expect_equal(
        [name for name in os.listdir(out.root) if name.startswith(".dynamicfs")], [], "what is left behind"
    )


@case(
    GROUP,
    "--only takes what is named, with the directories above; --list names it and copies nothing",
    where=OWN_POOLS,
)
def parts(bench):
    disks = two_disks(bench)
    pool = bench.pool("pool", disks, "replica:2").mount()
    for name in ("a/b/one", "a/b/two", "a/three", "c/four"):
        (pool.root / name).parent.mkdir(parents=True, exist_ok=True)
        (pool.root / name).write_bytes(name.encode())
    os.chmod(pool.root / "a", 0o705)
    pool.umount()
    out = Extracted(bench, disks, EXIT_AT_RISK, "--only", "/a/b//one", "--only", "c/", "--only", "a/nothing")
    out.says("MISSING  /a/nothing: there is nothing of this name.")
    names = sorted(path for path in snapshot(out.root))
    expect_equal(names, [".", "a", "a/b", "a/b/one", "c", "c/four"], "names")
    expect_equal(stat.S_IMODE(os.stat(out.root / "a").st_mode), 0o705, "mode of a directory above")
    expect_equal((out.root / "a/b/one").read_bytes(), b"a/b/one", "content")
    listed = dynamicfs("extract", "--list", "--only", "a", disks[0].path)
    expect_equal(listed.code, 0, "exit code of --list")
    words = [line.split(None, 1)[1] for line in listed.out.splitlines() if line.startswith(" ")]
    expect_equal(sorted(words), ["/a/", "/a/b/", "/a/b/one", "/a/b/two", "/a/three"], "names listed")
    expect("was not tried" in listed.out, f"{listed.out!r}")


@case(GROUP, "extract refuses what it must not write to, and what is no pool, with words", where=OWN_POOLS)
def refusals(bench):
    disks = two_disks(bench)
    pool = bench.pool("pool", disks, "replica:2").mount()
    pool.umount()
    full = bench.scratch / "full"
    full.mkdir()
    (full / "something").write_bytes(b"")
    disk = disks[0].path
    expect_refusal(dynamicfs("extract", "--to", full, disk), EXIT_USAGE, full, "not empty", "something")
    expect_refusal(dynamicfs("extract", "--to", full / "something", disk), EXIT_USAGE, "something")
    inside = disks[1].path / "inside"
    before = sorted(os.listdir(disks[1].path))
    for target in (disks[1].path, inside):
        expect_refusal(dynamicfs("extract", "--to", target, disk), EXIT_USAGE, disks[1].path, "disk of the pool")
    expect_equal(sorted(os.listdir(disks[1].path)), before, "what is in a disk")
    # A report replaces nothing, least of all a disk; and one that could not begin leaves none.
    report = bench.scratch / "report"
    report.write_bytes(b"precious")
    image = image_disk(bench.scratch / "an-image", DISK_BYTES)
    image.volume.write_bytes(b"disk" * 1000)
    for path, content in ((report, b"precious"), (image.volume, b"disk" * 1000)):
        told = dynamicfs("extract", "--list", "--report", path, disk)
        expect_refusal(told, EXIT_USAGE, path, "File exists", "replaces nothing")
        expect_equal(path.read_bytes(), content, f"what is in {path}")
    loop = command("losetup", "--find", "--show", image.volume).out.strip()
    try:
        expect_refusal(dynamicfs("extract", "--list", "--report", loop, disk), EXIT_USAGE, loop, "File exists")
        expect_equal(image.volume.read_bytes(), b"disk" * 1000, "what is on the block device")
    finally:
        command("losetup", "--detach", loop)
    report = bench.scratch / "new-report"
    expect_refusal(dynamicfs("extract", "--to", full, "--report", report, disk), EXIT_USAGE, "not empty")
    expect(not report.exists(), "the report of what did not begin is there")
    expect_refusal(dynamicfs("extract", "--to", bench.scratch / "no" / "where", disk), EXIT_USAGE, "where")
    expect_refusal(dynamicfs("extract", disk), EXIT_USAGE, "Where to is missing")
    expect_refusal(dynamicfs("extract", "--list", "--to", full, disk), EXIT_USAGE, "--list")
    expect_refusal(dynamicfs("extract", "--list", "--only", "a/../b", disk), EXIT_USAGE, "'..'")
    expect_refusal(dynamicfs("extract", "--to"), EXIT_USAGE, "--to needs a directory")
    nothing = directory_disk(bench.scratch / "nothing").path
    expect_refusal(dynamicfs("extract", "--list", nothing), EXIT_NOT_A_DISK, nothing)
    # What cannot be used is noted, as long as another disk can be.
    gone = bench.scratch / "gone"
    told = dynamicfs("extract", "--list", nothing, gone, disk)
    expect_equal(told.code, EXIT_DEGRADED, "exit code")
    for path in (nothing, gone):
        expect(str(path) in told.out, f"{path} is not named in {told.out!r}")
    other = bench.pool("other", [directory_disk(bench.scratch / "of-another")], "single")
    expect_refusal(dynamicfs("extract", "--list", disk, other.disks[0].path), EXIT_USAGE, "different pools")
    told = dynamicfs("extract", "--list", other.disks[0].path)
    expect_equal(told.code, EXIT_DEGRADED, "exit code for a pool that was never mounted")
    expect("not been mounted yet" in told.out, f"{told.out!r}")


@case(
    GROUP,
    "of a pool without redundancy that has lost a disk everything comes out that is on the others",
    where=OWN_POOLS,
    timeout_s=200,
)
def single(bench):
    disks = [image_disk(bench.scratch / f"disk-{letter}.img", DISK_BYTES) for letter in "abc"]
    pool = bench.pool("pool", disks, "single").mount()
    contents = {}
    for number in range(12):
        contents[f"file-{number}"] = bench.random_bytes(bench.rng.randrange(1, 9) * 700_000)
        (pool.root / f"file-{number}").write_bytes(contents[f"file-{number}"])
    pool.umount()
    for lost in disks:
        lost.take_away()
        left = [disk for disk in disks if disk is not lost]
        expect_refusal(pool.try_mount(disk=left[0]), EXIT_DISK_MISSING)
        out = Extracted(bench, left, EXIT_AT_RISK)
        out.says(f"({lost.path}) is missing")
        sizes = [out.expect_file(name, content) for name, content in contents.items()]
        whole, came = sum(map(len, contents.values())), sum(size or 0 for size in sizes)
        expect(None not in sizes, "a file did not come out at all")
        expect(whole // 4 < came < whole, f"{came} of {whole} bytes came out")
        expect_equal(whole - came, out.summary["lost_bytes"], "bytes told as missing")
        lost.bring_back()
    Extracted(bench, disks, 0)


@case(
    GROUP,
    "one disk of three, whichever: what it has comes out, nothing is wrong, and what is missing is told",
    where=OWN_POOLS,
    timeout_s=200,
)
def one_of_three(bench):
    disks = [image_disk(bench.scratch / f"disk-{letter}.img", DISK_BYTES) for letter in "abc"]
    pool = bench.pool("pool", disks, "replica:2").mount()
    contents = {}
    for number in range(12):
        contents[f"file-{number}"] = bench.random_bytes(600_000)
        (pool.root / f"file-{number}").write_bytes(contents[f"file-{number}"])
    dynamicfs("sync", pool.root, check=True)
    pool.kill()
    dynamicfs("umount", pool.root, check=True)
    # All metadata is in the log, and all three have that.
    came = 0
    for disk in disks:
        out = Extracted(bench, [disk], EXIT_AT_RISK, "--no-search")
        out.says("may have been used without those that are here")
        sizes = [out.expect_file(name, content) for name, content in contents.items()]
        expect(None not in sizes, "a file did not come out at all")
        came += sum(sizes)
    expect_equal(came, 2 * 12 * 600_000, "bytes that came out of the three, where each has two copies")
    pool.mount()
    pool.umount()
    # In the run now, which two of them have.
    lost = 0
    for disk in disks:
        out = Extracted(bench, [disk], EXIT_AT_RISK, "--no-search")
        if out.summary["files"] == 0:
            lost += 1
            out.says("of metadata", "cannot be read", "the root directory cannot be read")
        else:
            for name, content in contents.items():
                out.expect_file(name, content)
    expect_equal(lost, 1, "disks without metadata")


@case(
    GROUP,
    "erasure coding with one disk gone gives everything, with two what is on the third",
    where=OWN_POOLS,
    timeout_s=120,
)
def erasure(bench):
    disks = [image_disk(bench.scratch / f"disk-{letter}.img", DISK_BYTES) for letter in "abc"]
    pool = bench.pool("pool", disks, "ec:2+1").mount()
    contents = {f"file-{number}": bench.random_bytes(5 * MIB + 17) for number in range(4)}
    for name, content in contents.items():
        (pool.root / name).write_bytes(content)
    dynamicfs("sync", pool.root, check=True)
    pool.kill()
    dynamicfs("umount", pool.root, check=True)
    whole, came = 4 * (5 * MIB + 17), 0
    for disk in disks:
        out = Extracted(bench, [other for other in disks if other is not disk], EXIT_DEGRADED, "--no-search")
        for name, content in contents.items():
            expect_equal(out.expect_file(name, content), len(content), f"bytes of {name}")
        out = Extracted(bench, [disk], EXIT_AT_RISK, "--no-search")
        sizes = [out.expect_file(name, content) for name, content in contents.items()]
        expect(None not in sizes and sum(sizes) < whole, f"{sizes} came out of one disk")
        came += sum(sizes)
    # Each block is a column of one disk, but for what is kept in two copies.
    expect(whole <= came < whole + whole // 2, f"{came} of {whole} bytes came out of the three together")


@case(
    GROUP,
    "of rotten copies the good one comes out; without one the bytes are named, and there is a hole",
    where=OWN_POOLS,
    timeout_s=200,
)
def rot(bench):
    disks = two_disks(bench)
    pool = bench.pool("pool", disks, "replica:2").mount()
    half, gone, whole = (Victim(bench, pool, name, 600) for name in ("half", "gone", "whole"))
    os.link(gone.path, pool.root / "also-gone")
    pool.umount()
    places = expect_all_copies(disks, half)
    flip_bytes(disks[0].volume, [at for some in places[0].values() for at in some], bench.rng)
    out = Extracted(bench, disks, EXIT_DEGRADED)
    out.says("other copies were good", "Everything came out")
    expect_equal(out.files, {}, "files that are told")
    for victim in (half, gone, whole):
        expect(out.expect_file(victim.path.name, victim.content) == 600 * BLOCK_BYTES, f"{victim.path.name}")
    lost = sorted({0, 5, 6, 255, 256, 599} | set(bench.rng.sample(range(600), 5)))
    for disk, places in zip(disks, expect_all_copies(disks, gone)):
        flip_bytes(disk.volume, [at for number in lost for at in places[number]], bench.rng)
    out = Extracted(bench, disks, EXIT_AT_RISK)
    expect_equal(len(out.files), 1, f"files that are told: {out.files}")
    name = next(iter(out.files)).lstrip("/")
    expect_equal(out.expect_file(name, gone.content), (600 - len(lost)) * BLOCK_BYTES, "bytes that came out")
    told = [
        block
        for part in out.files[f"/{name}"]["missing_ranges"]
        for block in range(part["offset"] // BLOCK_BYTES, (part["offset"] + part["length"]) // BLOCK_BYTES)
    ]
    expect_equal(told, lost, "blocks that are told as missing")
    expect_equal(os.stat(out.root / "gone").st_nlink, 2, "links of the file")
    out.expect_file("half", half.content)
    out.expect_file("whole", whole.content)


@case(
    GROUP,
    "a journal that is rotten in the middle, which a mount refuses: everything before that comes out",
    where=OWN_POOLS,
    timeout_s=120,
)
def journal(bench):
    disks = two_disks(bench)
    pool = bench.pool("pool", disks, "replica:2").mount()
    old = Victim(bench, pool, "old", 30)
    pool.umount()
    pool.mount()
    early = Victim(bench, pool, "early", 20)
    lost = Victim(bench, pool, "lost", 20)
    Victim(bench, pool, "behind", 20)
    pool.kill()
    dynamicfs("umount", pool.root, check=True)
    text = dynamicfs("dump", "journal", disks[0].path, check=True).out
    at = None
    for line in text.splitlines():
        if line.startswith("  batch "):
            at = int(line.split(" at ")[1].split(",")[0], 16)
        if '"lost" is inode' in line:
            break
    for disk in disks:
        spoil(disk, JOURNAL_OFFSET + at + 150)
    refused = pool.try_mount()
    expect(refused.code != 0, "it mounts all the same")
    out = Extracted(bench, disks, EXIT_AT_RISK)
    out.says("The journal cannot be read from batch", "as it was before them")
    expect_equal(sorted(os.listdir(out.root)), ["early", "old"], "names that came out")
    out.expect_file("old", old.content)
    out.expect_file("early", early.content)
    for disk in disks:
        spoil(disk, JOURNAL_OFFSET + at + 150)
    out = Extracted(bench, disks, 0)
    out.expect_file("lost", lost.content)


def _spoil_metadata(bench, disks, uuid, index):
    """Entry block `index` of the newest run, on every disk; from behind if negative."""
    for disk in disks:
        found = {}
        for at, piece in data_pieces(disk.volume):
            for start in range(0, len(piece) - 64, BLOCK_BYTES):
                head = piece[start : start + 64]
                if head[24:40] == uuid and head[44] == 1:
                    run, block = (int.from_bytes(head[k : k + 8], "little") for k in (8, 16))
                    found.setdefault(run, {})[block] = at + start
        blocks = found[max(found)]
        expect(len(blocks) > 3, f"only {len(blocks)} blocks of metadata on {disk}")
        flip_bytes(disk.volume, [blocks[index % len(blocks)]], bench.rng)


@case(
    GROUP,
    "metadata that is spoiled on every disk: what it leads to is named, or comes out without its name",
    where=OWN_POOLS,
    timeout_s=200,
)
def metadata(bench):
    disks = two_disks(bench)
    pool = bench.pool("pool", disks, "replica:2").mount()
    contents = {}
    for number in range(3000):
        contents[f"file-{number}"] = b"%d" % number * 5
        (pool.root / f"file-{number}").write_bytes(contents[f"file-{number}"])
    uuid = bytes.fromhex(pool.status()[1]["pool"]["uuid"].replace("-", ""))
    pool.umount()
    expect_equal(last_metadata_block(disks[0].volume, uuid)[0], last_metadata_block(disks[1].volume, uuid)[0], "run")
    _spoil_metadata(bench, disks, uuid, -2)  # inodes and windows, of files alone
    out = Extracted(bench, disks, EXIT_AT_RISK)
    out.says("1 block of metadata cannot be read")
    sizes = [out.expect_file(name, content) for name, content in contents.items()]
    lost = sum(not size for size in sizes)
    expect(0 < lost < 1500, f"{lost} of 3000 files did not come out")
    _spoil_metadata(bench, disks, uuid, 1)  # names in the root directory
    out = Extracted(bench, disks, EXIT_AT_RISK)
    out.says("2 blocks of metadata cannot be read", "names in it may be missing", "whose names are lost")
    nameless = list((out.root / "dynamicfs-nameless").iterdir())
    expect(len(nameless) > 100, f"{len(nameless)} files without a name")
    named = {name for name in os.listdir(out.root) if name.startswith("file-")}
    for name in named:
        out.expect_file(name, contents[name])
    without = {content for name, content in contents.items() if name not in named}
    for path in nameless:
        if path.stat().st_size != 0:
            expect(path.read_bytes() in without or f"/dynamicfs-nameless/{path.name}" in out.files, f"{path.name}")
    told = {path.lstrip("/") for path, one in out.files.items() if one["kind"] == "missing"}
    expect(len(named | told) + len(nameless) >= 2900, f"{len(named)}, {len(told)}, {len(nameless)}")


@case(
    GROUP,
    "a target without enough room: how much is missing is said before, and where it ended behind",
    where=OWN_POOLS,
    needs=["root"],
    timeout_s=120,
)
def full_target(bench):
    disks = two_disks(bench)
    pool = bench.pool("pool", disks, "replica:2").mount()
    for number in range(20):
        (pool.root / f"file-{number}").write_bytes(bench.random_bytes(MIB))
    pool.umount()
    small = bench.scratch / "small"
    small.mkdir()
    command("mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", small)
    try:
        told = dynamicfs("extract", "--to", small, disks[0].path)
        expect_equal(told.code, EXIT_AT_RISK, f"exit code, having said {told.text!r}")
        for text in ("about 20.0 MiB to copy", "are missing", "takes no more (No space left on device)"):
            expect(text in told.text, f"{text!r} is missing in {told.text!r}")
    finally:
        command("umount", small)


def _used_blocks(disk):
    """Offsets of blocks with something in them, but for the superblocks."""
    return [
        at + start
        for at, piece in data_pieces(disk.volume)
        for start in range(0, len(piece), BLOCK_BYTES)
        if at + start >= 2 * SUPERBLOCK_BYTES and piece[start : start + BLOCK_BYTES].strip(b"\0")
    ]


@case(
    GROUP,
    "whatever is damaged on both disks: no wrong byte comes out, and no file is missing without a word",
    where=OWN_POOLS,
    timeout_s=300,
)
def sprayed(bench):
    disks = [image_disk(bench.scratch / f"disk-{letter}.img", 64 * MIB) for letter in "ab"]
    pool = bench.pool("pool", disks, "replica:2").mount()
    for number in range(40):
        (pool.root / f"directory-{number % 4}").mkdir(exist_ok=True)
        Victim(bench, pool, f"directory-{number % 4}/empty-{number}", 0)
    old, late = {}, {}
    for number in range(60):
        name = f"directory-{number % 4}/old-{number}"
        old[name] = Victim(bench, pool, name, bench.rng.randrange(1, 60)).content
    pool.umount()
    pool.mount()
    for number in range(20):
        name = f"directory-{number % 4}/late-{number}"
        late[name] = Victim(bench, pool, name, bench.rng.randrange(1, 60)).content
    pool.kill()
    dynamicfs("umount", pool.root, check=True)
    used = [_used_blocks(disk) for disk in disks]
    came = 0
    for damage in range(4 if bench.quick else 12):
        copies = [image_disk(bench.scratch / f"copy-{damage}-{letter}.img", 64 * MIB) for letter in "ab"]
        for disk, copy, blocks in zip(disks, copies, used):
            command("cp", "--sparse=always", disk.volume, copy.volume)
            flip_bytes(copy.volume, bench.rng.sample(blocks, len(blocks) * (damage + 1) // 40), bench.rng)
        out = Extracted(bench, copies, (EXIT_DEGRADED, EXIT_AT_RISK), "--no-search")
        for name, content in (old | late).items():
            told = out.files.get(f"/{name}")
            around = out.files.get(f"/{os.path.dirname(name)}")
            path = out.root / name
            if not path.exists():
                known = any(one and one["kind"] != "attributes" for one in (told, around, out.files.get("/")))
                known = known or (name in late and "The journal cannot be read" in out.text)
                expect(known, f"{name} is not there, and nobody tells")
                continue
            found = path.read_bytes()
            in_doubt = name in late or (told and told["kind"] == "doubtful")
            if not in_doubt:
                came += out.expect_file(name, content)
            for at in range(0, len(found), BLOCK_BYTES):
                block = found[at : at + BLOCK_BYTES]
                expect(
                    block == content[at : at + len(block)] or not block.strip(b"\0"),
                    f"{name} has a wrong block at {at}",
                )
        for copy in copies:
            copy.volume.unlink()
    expect(came > 0, "nothing came out that is not in doubt")


@case(
    GROUP,
    "synced changes at the end of the log whose data is bad here and away with a disk: that something is lost is told",
    where=OWN_POOLS,
    timeout_s=200,
)
def dropped(bench):
    disks = two_disks(bench)
    pool = bench.pool("pool", disks, "replica:2").mount()
    early = Victim(bench, pool, "early", 4)
    last = Victim(bench, pool, "last", 4)
    pool.kill()
    dynamicfs("umount", pool.root, check=True)
    places = expect_all_copies(disks, last)
    content = last.content
    out = Extracted(bench, disks[:1], EXIT_DEGRADED, "--no-search")
    expect_equal(out.expect_file("last", content), len(content), "bytes of the last file")
    flip_bytes(disks[0].volume, [at for some in places[0].values() for at in some], bench.rng)
    out = Extracted(bench, disks[:1], EXIT_AT_RISK, "--no-search")
    out.says("PROBLEM  The last", "came without their data", "files that were synced last may be missing")
    out.expect_file("early", early.content)
    out = Extracted(bench, disks, (0, EXIT_DEGRADED), "--no-search")
    expect_equal(out.expect_file("last", content), len(content), "bytes of the last file")


@case(
    GROUP,
    "of a disk that was copied only in part everything comes out that is in the copy",
    where=OWN_POOLS,
    timeout_s=120,
)
def short_copy(bench):
    disks = [image_disk(bench.scratch / f"disk-{letter}.img", DISK_BYTES) for letter in "ab"]
    pool = bench.pool("pool", disks, "single").mount()
    contents = {f"file-{number}": bench.random_bytes(8 * MIB) for number in range(8)}
    for name, content in contents.items():
        (pool.root / name).write_bytes(content)
    pool.umount()
    os.truncate(disks[1].volume, 24 * MIB)
    expect(pool.try_mount().code != 0, "it mounts all the same")
    out = Extracted(bench, disks, EXIT_AT_RISK)
    out.says(f"({disks[1].path}) is shorter than it was")
    sizes = [out.expect_file(name, content) for name, content in contents.items()]
    expect(None not in sizes and 32 * MIB < sum(sizes) < 64 * MIB, f"{sizes} came out")
    os.truncate(disks[1].volume, 1000)
    out = Extracted(bench, disks, EXIT_AT_RISK)
    out.says(f"{disks[1].path} is not a dynamicfs disk", "is missing")


@case(
    GROUP,
    "disks that were mounted apart are refused together, and each side comes out by itself",
    where=OWN_POOLS,
    timeout_s=120,
)
def apart(bench):
    disks = two_disks(bench)
    pool = bench.pool("pool", disks, "replica:2").mount()
    (pool.root / "common").write_bytes(b"common")
    pool.umount()
    for here, away in (disks, disks[::-1]):
        away.take_away()
        pool.mount(disk=here)
        (pool.root / f"on-{here.path.name}").write_bytes(b"new")
        pool.umount()
        away.bring_back()
    told = dynamicfs("extract", "--list", disks[0].path)
    expect_refusal(told, EXIT_SPLIT_BRAIN, "mounted apart", "--no-search")
    for here, away in (disks, disks[::-1]):
        out = Extracted(bench, [here], EXIT_DEGRADED, "--no-search")
        expect_equal(sorted(os.listdir(out.root)), ["common", f"on-{here.path.name}"], "names")


@case(
    GROUP,
    "an ordinary user gets the files, and is told what of them could not be kept",
    where=OWN_POOLS,
    needs=["root"],
)
def as_user(bench):
    disks = [image_disk(bench.scratch / "disk-a.img", DISK_BYTES)]
    pool = bench.pool("pool", disks, "single").mount()
    (pool.root / "file").write_bytes(b"content")
    os.chmod(pool.root / "file", 0o6755)
    os.setxattr(pool.root / "file", "trusted.note", b"x")
    os.mknod(pool.root / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    pool.umount()
    bench.scratch.chmod(0o755)
    os.chmod(disks[0].volume, 0o644)
    with tempfile.TemporaryDirectory(prefix="dynamicfs-out-") as place:
        os.chown(place, 65534, 65534)
        target = os.path.join(place, "out")
        told = dynamicfs("extract", "--to", target, disks[0].path, preexec_fn=as_nobody)
        expect_equal(told.code, EXIT_AT_RISK, f"exit code, having said {told.text!r}")
        for text in ("MISSING  /null", "an owner could not be kept", "trusted.note"):
            expect(text in told.text, f"{text!r} is missing in {told.text!r}")
        info = os.stat(os.path.join(target, "file"))
        expect_equal(stat.S_IMODE(info.st_mode), 0o755, "mode without what would be somebody else's rights")
        with open(os.path.join(target, "file"), "rb") as file:
            expect_equal(file.read(), b"content", "content")
