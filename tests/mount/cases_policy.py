"""Policies of directories and files: set, inherited, changed while files are in use, kept by copies."""

import json
import os
import subprocess
import threading
import time

from case import OWN_POOLS, case
from harness import expect, expect_equal, wait_until
from snapshot import expect_same, expect_sound, snapshot
from syscalls import fsync_path
from targets import (
    EXIT_DEGRADED,
    EXIT_HEALTHY,
    MIB,
    dynamicfs,
    expect_refusal,
    image_disk,
)

GROUP = "policy"
POLICY = "user.dynamicfs.policy"
EXIT_FAILED = 3
EXIT_USAGE = 4
EXIT_TOO_FEW_DISKS = 8
EXIT_AT_RISK = 2


def contents(root):
    """snapshot(), but for the policies."""
    entries = snapshot(root)
    for entry in entries.values():
        entry["xattrs"].pop(POLICY, None)
    return entries


def set_policy(policy, *paths, check=True):
    return dynamicfs("policy", "set", policy, *paths, check=check)


def policies(*paths):
    return [one["policy"] for one in json.loads(dynamicfs("policy", "get", "--json", *paths).out)]


def reencoding(pool):
    return pool.status()[1]["reencoding"]


def wait_for_rest(pool, timeout_s=90):
    wait_until(lambda: not reencoding(pool)["pending"], timeout_s, "everything is encoded anew")


def expect_as_asked(root):
    """Nothing below lies otherwise than its policy asks."""
    files = [path for path in root.rglob("*") if path.is_file()]
    for one in json.loads(dynamicfs("policy", "get", "--json", *files).out):
        odd = [layout for layout in one["layouts"] if not layout["as_asked"]]
        expect(not odd, f"{one['path']}, {one['policy']}, is {odd}")


def fill(root, rng, count=40, largest=1_500_000):
    root.mkdir()
    for number in range(count):
        (root / f"file-{number}").write_bytes(rng.randbytes(1 + rng.randrange(largest)))
    (root / "deep").mkdir()
    (root / "deep" / "er").write_bytes(rng.randbytes(3 * MIB))
    for path in root.rglob("*"):
        fsync_path(path)


@case(GROUP, "what is made in a directory has its policy, and copies and archives take it along", where=OWN_POOLS)
def inherited(bench):
    images = [image_disk(bench.scratch / f"d{i}.img", 128 * MIB) for i in range(3)]
    pool = bench.pool("pool", images, "single").mount()
    photos = pool.root / "photos"
    photos.mkdir()
    set_policy("replica:2", photos)
    (photos / "2024").mkdir()
    (photos / "2024" / "a").write_bytes(bench.rng.randbytes(700_000))
    (photos / "link").symlink_to("2024")
    expect_equal(policies(photos / "2024", photos / "2024" / "a", pool.root), ["replica:2", "replica:2", "single"], "policies")
    # As programs see it.
    expect_equal(os.getxattr(photos / "2024" / "a", POLICY), b"replica:2", "the attribute")
    os.setxattr(photos / "2024" / "a", POLICY, b"replica:3")
    expect_equal(policies(photos / "2024" / "a"), ["replica:3"], "policy by setfattr")
    for command in (
        ["cp", "-a", photos / "2024", pool.root / "by-cp"],
        ["rsync", "-aX", f"{photos / '2024'}/", pool.root / "by-rsync"],
        ["sh", "-c", f"mkdir {pool.root}/by-tar && tar -C {photos}/2024 --xattrs -cf - . | tar -C {pool.root}/by-tar --xattrs -xf -"],
    ):
        subprocess.run(command, check=True, timeout=60)
    for name in ("by-cp", "by-rsync", "by-tar"):
        expect_equal(policies(pool.root / name / "a"), ["replica:3"], f"policy of what is {name}")
    # A plain copy elsewhere is as that place asks, and shares nothing with what is protected otherwise.
    subprocess.run(["cp", photos / "2024" / "a", pool.root / "plain"], check=True, timeout=60)
    expect_equal(policies(pool.root / "plain"), ["single"], "policy of a plain copy")
    wait_for_rest(pool)
    expect_as_asked(pool.root)
    expect_sound(pool.root)
    pool.umount()


@case(
    GROUP,
    "another policy encodes anew what there is, while it is read and written, and after kills of the daemon",
    where=OWN_POOLS,
    timeout_s=240,
)
def changed(bench):
    images = [image_disk(bench.scratch / f"d{i}.img", 256 * MIB) for i in range(4)]
    pool = bench.pool("pool", images, "single").mount()
    fill(pool.root / "photos", bench.rng)
    fill(pool.root / "other", bench.rng, count=30)
    before = contents(pool.root)
    for policy in ("ec:2+1", "replica:3", "ec:2+2", "replica:2"):
        set_policy(policy, pool.root / "photos")
        expect(reencoding(pool)["pending"], "nothing is to be encoded anew")
        ended = threading.Event()
        problems = []

        def read_all(wanted=before, end=ended, found=problems):
            try:
                while not end.is_set():
                    expect_same(wanted, contents(pool.root), "while it is encoded anew")
            except Exception as problem:
                found.append(problem)

        reader = threading.Thread(target=read_all)
        reader.start()
        time.sleep(2 + 2 * bench.rng.random())
        ended.set()
        reader.join()
        if problems:
            raise problems[0]
        pool.kill()
        pool.mount()
        expect_equal(policies(pool.root / "photos", pool.root / "photos" / "deep" / "er"), [policy] * 2, "policies after a kill")
        wait_for_rest(pool)
        expect_same(before, contents(pool.root), f"when it is {policy}")
        expect_as_asked(pool.root)
    expect_equal(policies(pool.root / "other" / "file-0"), ["single"], "policy of what was left alone")
    expect_sound(pool.root)
    # What has two copies is there without any of the disks; for the rest status says what is the matter.
    safe = contents(pool.root / "photos")
    pool.umount()
    images[1].take_away()
    pool.mount()
    expect_same(safe, contents(pool.root / "photos"), "without a disk")
    code, status = pool.status()
    expect_equal(code, EXIT_AT_RISK, "exit code of status without a disk that files have no copy of")
    expect(status["pool"]["unavailable_bytes"] > 0, "nothing is missing")
    expect(any("lie only on disks that are away" in line for line in status["problems"]), f"{status['problems']}")
    pool.umount()
    images[1].bring_back()
    pool.mount()
    expect_same(before, contents(pool.root), "with all disks")
    # Nothing is encoded anew before the disk has what it has missed.
    wait_until(lambda: pool.status()[0] == EXIT_HEALTHY, 60, "the pool is healthy")
    # The pool as a whole: what has none of its own.
    set_policy("replica:2", pool.root)
    wait_for_rest(pool)
    expect_as_asked(pool.root)
    expect_equal(policies(pool.root / "other" / "file-0"), ["replica:2"], "policy as the pool has it")
    pool.umount()
    images[2].take_away()
    pool.mount()
    expect_same(before, contents(pool.root), "without another disk")
    expect_equal(pool.status()[0], EXIT_DEGRADED, "exit code of status without another disk")
    pool.umount()
    images[2].bring_back()


@case(GROUP, "with placement=file a lost disk takes the files that lie on it alone, and they are named", where=OWN_POOLS, timeout_s=180)
def whole_files(bench):
    images = [image_disk(bench.scratch / f"d{i}.img", 160 * MIB) for i in range(3)]
    pool = bench.pool("pool", images, "single,placement=file").mount()
    sizes = [1, 4000, 70_000, 900_000, 2_500_000]
    for number in range(60):
        folder = pool.root / f"folder-{number % 4}"
        folder.mkdir(exist_ok=True)
        (folder / f"file-{number}").write_bytes(bench.rng.randbytes(sizes[number % 5]))
    # As programs write: piece by piece, in the middle, appended, cut.
    grown = pool.root / "folder-0" / "file-0"
    with open(grown, "r+b") as file:
        for _ in range(20):
            file.seek(bench.rng.randrange(2 * MIB))
            file.write(bench.rng.randbytes(bench.rng.randrange(1, 50_000)))
            os.fsync(file.fileno())
        file.truncate(MIB + 17)
    dynamicfs("sync", pool.root, check=True)
    files = sorted(path for path in pool.root.rglob("*") if path.is_file())
    before = contents(pool.root)
    home = {}
    for one in json.loads(dynamicfs("policy", "get", "--json", *files).out):
        expect_equal(one["policy"], "single,placement=file", f"policy of {one['path']}")
        expect_equal(len(one["disks"]), 1, f"disks of {one['path']}: {one['disks']}")
        home[one["path"]] = one["disks"][0]["disk"]
    shown = dynamicfs("policy", "get", files[0], check=True).out
    expect(f"on disk {home[str(files[0])]}" in shown, f"policy get says {shown!r}")
    for disk in range(3):
        count = sum(1 for where in home.values() if where == disk)
        expect(10 <= count <= 30, f"{count} of 60 files are on disk {disk}")
    pool.umount()
    images[1].take_away()
    # Offline, the files are named.
    lost = sorted(path for path, disk in home.items() if disk == 1)
    told = dynamicfs("check", "--data", images[0].path, images[2].path, timeout_s=100)
    expect_equal(told.code, EXIT_AT_RISK, f"exit code of check, having said {told.text!r}")
    for path in lost:
        inside = "/" + str(path).removeprefix(f"{pool.root}/")
        expect(f"{inside} needs a disk that is away" in told.text, f"check does not name {inside}: {told.text!r}")
    expect_equal(told.text.count("needs a disk that is away"), len(lost), "files that check names")
    pool.mount()
    for path in files:
        try:
            path.read_bytes()
            unread = False
        except OSError as refusal:
            expect_equal(refusal.errno, 5, f"errno of {path}")
            unread = True
        expect_equal(unread, str(path) in lost, f"whether {path}, on disk {home[str(path)]}, cannot be read")
    code, status = pool.status()
    expect_equal(code, EXIT_AT_RISK, "exit code of status without a disk")
    expect_equal(status["pool"]["state"], "damaged", "state")
    # Mounted, each file says so.
    for one in json.loads(dynamicfs("policy", "get", "--json", *files).out):
        expect_equal(one["disks"][0]["here"], one["path"] not in lost, f"whether the disk of {one['path']} is here")
    shown = dynamicfs("policy", "get", *files, check=True).out.splitlines()
    expect_equal(sum(line.endswith("on disk 1 (away)") for line in shown), len(lost), "lines of files that are away")
    # Work goes on: what is here is changed, what is new is here, what is lost is written anew.
    (pool.root / "new").write_bytes(b"new" * 1000)
    os.remove(lost[0])
    pool.umount()
    images[1].bring_back()
    pool.mount()
    after = contents(pool.root)
    after.pop("new")
    gone = str(lost[0]).removeprefix(f"{pool.root}/")
    before.pop(gone)
    for entries in (before, after):
        for name in ("", ".", os.path.dirname(gone)):
            entries.pop(name, None)
    expect_same(before, after, "with all disks")
    expect_sound(pool.root)
    pool.umount()


@case(GROUP, "placement is chosen when a pool is made, and what contradicts itself is refused", where=OWN_POOLS)
def placement_chosen(bench):
    def create(*words):
        images = [bench.scratch / f"made-{i}.img" for i in range(2)]
        for image in images:
            image.unlink(missing_ok=True)
        return dynamicfs("create", "--size", "64M", *words, *images)

    for words, said in (
        (("--placement", "file"), "replica:2 puts each file on several disks"),
        (("--redundancy", "replica:2", "--placement", "file"), "--redundancy single --placement file"),
        (("--redundancy", "single", "--placement", "heap"), "'heap' is no placement"),
        (("--redundancy", "single,placement=file", "--placement", "spread"), "contradict"),
        (("--redundancy", "replica:2,placement=file"), "is no redundancy"),
    ):
        expect_refusal(create(*words), EXIT_USAGE, said)
    for words in (("--redundancy", "single", "--placement", "file"), ("--redundancy", "single,placement=file")):
        made = create(*words)
        expect_equal(made.code, 0, f"exit code, having said {made.text!r}")
        expect("single,placement=file" in made.out, f"{made.out!r}")
        expect("Each file lies on one disk" in made.text, f"{made.text!r}")


@case(GROUP, "what cannot be is refused with a remedy, and nothing has changed", where=OWN_POOLS)
def refused(bench):
    images = [image_disk(bench.scratch / f"d{i}.img", 96 * MIB) for i in range(2)]
    pool = bench.pool("pool", images, "replica:2").mount()
    folder = pool.root / "folder"
    folder.mkdir()
    for policy, path, code, words in (
        ("replica:3", folder, EXIT_TOO_FEW_DISKS, "replica:3 takes 3 disks"),
        ("ec:2+1", pool.root, EXIT_TOO_FEW_DISKS, "ec:2+1 takes 3 disks"),
        ("raid6", folder, EXIT_USAGE, "raid6 is no policy"),
        ("default", pool.root, EXIT_USAGE, "has to have a policy"),
        ("single", pool.root / "nothing", EXIT_FAILED, "There is no"),
        ("single", bench.scratch, 15, "No dynamicfs pool"),
    ):
        expect_refusal(set_policy(policy, path, check=False), code, words)
    for value in (b"replica:3", b"nonsense", b""):
        try:
            os.setxattr(folder, POLICY, value)
        except OSError as refusal:
            expect_equal(refusal.errno, 22, f"errno for {value}")
        else:
            expect(False, f"{value} was taken")
    expect_equal(policies(folder, pool.root), ["replica:2", "replica:2"], "policies")
    expect(not reencoding(pool)["pending"], "something is to be encoded anew")
    expect_equal(pool.status()[0], EXIT_HEALTHY, "exit code of status")
    # default takes its own away.
    set_policy("single", folder)
    expect_equal(policies(folder), ["single"], "policy of its own")
    set_policy("default", folder)
    expect_equal(policies(folder), ["replica:2"], "policy without its own")
    pool.umount()
