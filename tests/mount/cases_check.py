"""`check` and `dump`: what they say of pools that are well, degraded, damaged, killed and in use."""

import hashlib
import json
import os
import subprocess

from case import OWN_POOLS, case
from cases_corruption import Victim, data_pieces, expect_all_copies, flip_bytes, two_disks
from harness import expect, expect_equal
from targets import binary, directory_disk, dynamicfs, expect_refusal

GROUP = "check"
EXIT_DEGRADED, EXIT_AT_RISK, EXIT_NOT_A_DISK, EXIT_MOUNTED = 1, 2, 5, 10
JOURNAL_OFFSET = 1 << 20
SUPERBLOCK_BYTES = 64 << 10


def expect_says(outcome, code, *texts):
    said = outcome.text
    expect_equal(outcome.code, code, f"exit code, having said {said!r}")
    for text in texts:
        expect(text in said, f"{text!r} is missing in {said!r}")


def fingerprint(disks):
    sums = []
    for disk in disks:
        one = hashlib.sha256()
        for at, piece in data_pieces(disk.volume):
            if piece.strip(b"\0"):
                one.update(at.to_bytes(8, "little") + piece)
        sums.append(one.hexdigest())
    return sums


def spoil(disk, offset):
    with open(disk.volume, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0xFF]))
        os.fsync(file.fileno())


@case(
    GROUP,
    "check finds nothing wrong with a pool that is new, unmounted or killed, and changes nothing",
    where=OWN_POOLS,
    timeout_s=120,
)
def healthy(bench):
    disks = two_disks(bench)
    pool = bench.pool("pool", disks, "replica:2")
    expect_says(dynamicfs("check", disks[0].path), 0, "not been mounted yet", "Nothing is wrong")
    pool.mount()
    victim = Victim(bench, pool, "file", 40)
    os.link(victim.path, pool.root / "second-name")
    (pool.root / "directory").mkdir()
    os.symlink("file", pool.root / "link")
    expect_refusal(dynamicfs("check", disks[0].path), EXIT_MOUNTED, pool.root, "umount")
    expect_refusal(dynamicfs("dump", "run", disks[0].path), EXIT_MOUNTED, pool.root)
    pool.umount()
    expect_says(
        dynamicfs("check", disks[1].path),
        0,
        "2 directories, 1 file, 1 other, 4 names",
        "unmounted in order",
        "--data reads it",
        "Nothing is wrong",
    )
    pool.mount()
    Victim(bench, pool, "late", 3)
    pool.kill()
    dynamicfs("umount", pool.root, check=True)
    before = fingerprint(disks)
    outcome = dynamicfs("check", "--data", disks[0].path, timeout_s=100)
    expect_says(outcome, 0, "not unmounted in order", "2 files", "every copy that is here read", "Nothing is wrong")
    told = json.loads(dynamicfs("check", "--data", "--json", disks[0].path).out)
    expect_equal(told["problems"], [], "problems")
    expect_equal(told["exit_code"], 0, "exit_code")
    expect_equal(told["tree"]["files"], 2, "files")
    expect(told["copies"]["checked_bytes"] >= 43 * 4096, f"checked {told['copies']}")
    for what in ("superblocks", "journal", "run"):
        expect_equal(dynamicfs("dump", what, disks[0].path).code, 0, f"dump {what}")
    outcome = dynamicfs("check", "--repair", disks[0].path)
    expect_says(outcome, 0, "Nothing is wrong")
    expect("repaired" not in outcome.out, f"repaired something: {outcome.out!r}")
    told = json.loads(dynamicfs("check", "--repair", "--json", disks[0].path).out)
    expect_equal(told["repair"], {"repaired": [], "left": []}, "repair")
    expect_equal(fingerprint(disks), before, "what is on the disks")
    pool.mount()
    expect_refusal(dynamicfs("check", "--repair", disks[0].path), EXIT_MOUNTED, pool.root, "umount")
    expect_equal((pool.root / "late").stat().st_size, 3 * 4096, "size of the last file")


@case(
    GROUP,
    "check tells what redundancy makes up for (1) from what is lost (2), and names the file",
    where=OWN_POOLS,
    timeout_s=120,
)
def damaged(bench):
    disks = two_disks(bench)
    pool = bench.pool("pool", disks, "replica:2").mount()
    victim = Victim(bench, pool, "victim", 20)
    pool.umount()
    places = expect_all_copies(disks, victim)
    spoil(disks[0], SUPERBLOCK_BYTES + 40)
    expect_says(dynamicfs("check", disks[0].path), EXIT_DEGRADED, "1 copy is wrong")
    outcome = dynamicfs("dump", "superblocks", disks[0].path)
    expect_says(outcome, EXIT_AT_RISK, "superblock B: ", "superblock A:")
    flip_bytes(disks[0].volume, places[0][5], bench.rng)
    with open("/dev/full", "wb") as full:
        for words in (("check",), ("check", "--json"), ("dump", "run"), ("dump", "superblocks")):
            ended = subprocess.run([binary(), *words, disks[0].path], stdout=full, stderr=subprocess.PIPE)
            expect_equal(ended.returncode, 3, f"exit code of {words} into a full device")
            expect(b"Not everything could be written" in ended.stderr, f"{ended.stderr!r}")
    spoil(disks[0], 40)
    outcome = dynamicfs("dump", "superblocks", disks[0].path)
    expect_says(outcome, EXIT_AT_RISK, "superblock A: ", "superblock B: ")
    expect_says(dynamicfs("dump", "superblocks", disks[1].path), EXIT_AT_RISK, disks[0].path.name)
    spoil(disks[0], 40)
    expect_says(dynamicfs("check", disks[0].path), EXIT_DEGRADED)
    outcome = dynamicfs("check", "--data", disks[0].path)
    expect_says(outcome, EXIT_DEGRADED, "2 copies are wrong", "Everything can be read")
    flip_bytes(disks[1].volume, places[1][5], bench.rng)
    outcome = dynamicfs("check", "--data", disks[0].path)
    expect_says(outcome, EXIT_AT_RISK, "1 block has no good copy", "/victim cannot be read")
    disks[1].take_away()
    outcome = dynamicfs("check", disks[0].path)
    expect_says(outcome, EXIT_DEGRADED, f"({disks[1].path}) is missing")
    disks[1].bring_back()


@case(
    GROUP,
    "check finds a journal that one disk has not whole; dump shows where; a mount repairs it",
    where=OWN_POOLS,
    timeout_s=120,
)
def journal(bench):
    disks = two_disks(bench)
    pool = bench.pool("pool", disks, "replica:2").mount()
    for name in ("one", "two", "three"):
        Victim(bench, pool, name, 1)
    pool.kill()
    dynamicfs("umount", pool.root, check=True)
    text = dynamicfs("dump", "journal", disks[0].path, check=True).out
    expect('"three" is inode' in text, f"no record of the file in {text!r}")
    first = next(line for line in text.splitlines() if line.startswith("  batch "))
    offset = int(first.split(" at ")[1].split(",")[0], 16)
    spoil(disks[0], JOURNAL_OFFSET + offset + 150)
    expect_says(dynamicfs("dump", "journal", disks[0].path), EXIT_AT_RISK, "DAMAGED")
    outcome = dynamicfs("check", disks[0].path)
    expect_says(outcome, EXIT_DEGRADED, "1 batch of the journal is not whole on every disk")
    spoil(disks[1], JOURNAL_OFFSET + offset + 150)
    outcome = dynamicfs("check", disks[0].path)
    expect_says(outcome, EXIT_AT_RISK, "The metadata cannot be recovered")
    spoil(disks[1], JOURNAL_OFFSET + offset + 150)
    pool.mount()
    pool.umount()
    expect_says(dynamicfs("check", "--data", disks[0].path), 0, "3 files", "Nothing is wrong")


@case(GROUP, "check and dump refuse what is no disk of ours, with words", where=OWN_POOLS)
def refusals(bench):
    nothing = directory_disk(bench.scratch / "nothing")
    for words in (("check",), ("dump", "superblocks"), ("dump", "journal"), ("dump", "run")):
        expect_refusal(
            dynamicfs(*words, nothing.path), EXIT_NOT_A_DISK, f"{nothing.path} is not a dynamicfs"
        )
        expect_refusal(dynamicfs(*words, ""), 4, "The name of a disk is empty.")
    expect_refusal(dynamicfs("dump"), 4)
    expect_refusal(dynamicfs("dump", "everything", nothing.path), 4)
    expect_equal(os.listdir(nothing.path), [], "files in the refused directory")
