"""The command's refusals, each with its exit code, a message that names the thing, and nothing
changed.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import socket
import stat
import struct
import subprocess
import threading
import time
from pathlib import Path

from case import OWN_POOLS, case
from harness import Skip, as_nobody, command, expect, expect_equal, is_running, wait_until
from snapshot import content_hash, expect_same, snapshot
from targets import (
    EXIT_ALREADY_IN_POOL,
    EXIT_ALREADY_MOUNTED,
    EXIT_BAD_MOUNTPOINT,
    EXIT_DISK_MISSING,
    EXIT_FAILED,
    EXIT_MOUNT_HELD,
    EXIT_NEWER_FORMAT,
    EXIT_NO_FUSE,
    EXIT_NO_PERMISSION,
    EXIT_NOT_A_DISK,
    EXIT_NOT_MOUNTED,
    EXIT_TOO_FEW_DISKS,
    EXIT_USAGE,
    MIB,
    binary,
    directory_disk,
    dynamicfs,
    expect_refusal,
    image_disk,
    loop_disk,
)

GROUP = "command"
DISK_BYTES = 256 * MIB


def two_images(bench):
    return [image_disk(bench.scratch / f"disk-{letter}.img", DISK_BYTES) for letter in "ab"]


def hashes(disks):
    """What lies on the disks, to see that a refusal changed nothing."""
    return [content_hash(disk.volume) for disk in disks]


@case(
    GROUP,
    "create makes a pool on a directory, an image it makes itself and a block device",
    where=OWN_POOLS,
    needs=["loop devices"],
)
def create_on_all_kinds(bench):
    folder = directory_disk(bench.scratch / "folder")
    image = bench.scratch / "new.img"
    device = loop_disk(bench.scratch / "device.img", DISK_BYTES)
    dynamicfs(
        "create",
        "--size",
        "256M",
        "--label",
        "mixed",
        "--redundancy",
        "replica:2",
        folder.path,
        image,
        device.path,
        check=True,
    )
    expect(
        folder.volume.exists() and image.stat().st_size == DISK_BYTES,
        "no volume or no image of the wanted size",
    )
    mountpoint = bench.scratch / "mnt"
    mountpoint.mkdir()
    dynamicfs("mount", device.path, mountpoint, check=True)
    (mountpoint / "file").write_bytes(b"content")
    outcome = dynamicfs("status", mountpoint)
    expect_equal(outcome.code, 0, "exit code of status")
    for word in ("mixed", "replica:2", str(folder.path), str(image), str(device.path)):
        expect(word in outcome.out, f"status does not show {word}: {outcome.out[:500]}")
    dynamicfs("umount", mountpoint, check=True)
    dynamicfs("mount", folder.path, mountpoint, check=True)  # Any disk leads to the others.
    expect_equal(
        (mountpoint / "file").read_bytes(), b"content", "the file, mounted from another disk"
    )
    dynamicfs("umount", mountpoint, check=True)


@case(
    GROUP,
    "create --size gives the same pool on images of that size, and create warns about single over disks",
    where=OWN_POOLS,
)
def create_single_warns(bench):
    disks = [bench.scratch / "a.img", bench.scratch / "b.img"]
    outcome = dynamicfs("create", "--size", "256M", "--redundancy", "single", *disks, check=True)
    expect(
        "single" in outcome.text and "warning" in outcome.text.lower(),
        f"no warning: {outcome.text}",
    )
    expect_equal([path.stat().st_size for path in disks], [DISK_BYTES] * 2, "sizes of the images")


@case(GROUP, "nonsense on the command line is refused as usage, naming the word", where=OWN_POOLS)
def usage(bench):
    disk = directory_disk(bench.scratch / "disk")
    for words, named in (
        ((), ""),
        (("frobnicate",), "frobnicate"),
        (("create",), ""),
        (("create", "--redundancy", "replica:0", disk.path), "replica:0"),
        (("create", "--redundancy", "triple", disk.path), "triple"),
        (("create", "--size", "many", disk.path), "many"),
        (("create", "--nonsense", disk.path), "--nonsense"),
        (("mount", disk.path), ""),
        (("mount", disk.path, disk.path, "-o", "no_such_option"), "no_such_option"),
    ):
        expect_refusal(dynamicfs(*words), EXIT_USAGE, named)
    expect_equal(os.listdir(disk.path), [], "files in the refused directory")
    expect("create" in dynamicfs("--help", check=True).out, "--help does not teach create")


@case(GROUP, "mount refuses what is not a dynamicfs disk", where=OWN_POOLS)
def not_a_disk(bench):
    folder = bench.scratch / "ordinary folder"
    folder.mkdir()
    (folder / "letter").write_text("dear reader")
    empty = image_disk(bench.scratch / "zeros.img", DISK_BYTES)
    noise = bench.scratch / "noise.img"
    noise.write_bytes(bench.random_bytes(4 * MIB))
    mountpoint = bench.scratch / "mnt"
    mountpoint.mkdir()
    before = snapshot(bench.scratch)
    for path in (folder, empty.path, noise, bench.scratch / "absent"):
        outcome = dynamicfs("mount", path, mountpoint)
        wanted = (
            (EXIT_NOT_A_DISK, EXIT_DISK_MISSING) if path.name == "absent" else (EXIT_NOT_A_DISK,)
        )
        expect_refusal(outcome, outcome.code if outcome.code in wanted else EXIT_NOT_A_DISK, path)
    expect_same(before, snapshot(bench.scratch), "after the refusals")


@case(
    GROUP,
    "create refuses a disk that is in a pool already, and touches none of the others",
    where=OWN_POOLS,
)
def already_in_pool(bench):
    pool = bench.pool("pool", two_images(bench))
    fresh = directory_disk(bench.scratch / "fresh")
    before = hashes(pool.disks)
    expect_refusal(
        dynamicfs("create", fresh.path, pool.disks[1].path), EXIT_ALREADY_IN_POOL, pool.disks[1]
    )
    expect_equal(hashes(pool.disks), before, "the pool's disks")
    expect_equal(os.listdir(fresh.path), [], "files on the other disk")
    pool.mount().umount()


@case(GROUP, "create refuses more copies than disks", where=OWN_POOLS)
def too_few_disks(bench):
    disks = [directory_disk(bench.scratch / name) for name in ("a", "b")]
    outcome = dynamicfs("create", "--redundancy", "replica:3", *[disk.path for disk in disks])
    expect_refusal(outcome, EXIT_TOO_FEW_DISKS, "replica:3")
    expect_equal([os.listdir(disk.path) for disk in disks], [[], []], "files on the disks")


@case(
    GROUP,
    "mount names the disk of a single pool that is missing, and -o disk= finds it where it went",
    where=OWN_POOLS,
)
def disk_missing(bench):
    disks = [directory_disk(bench.scratch / name) for name in ("a", "b")]
    pool = bench.pool("pool", disks, "single").mount()
    (pool.root / "file").write_bytes(bench.random_bytes(4 * MIB))
    before = snapshot(pool.root)
    pool.umount()
    volumes = hashes(disks[:1])
    disks[1].take_away()
    expect_refusal(pool.try_mount(), EXIT_DISK_MISSING, disks[1])
    expect_equal(hashes(disks[:1]), volumes, "the disk that is there")
    moved = disks[1].path.with_name("moved elsewhere")
    disks[1].path.with_name("b.taken-away").rename(moved)
    pool.mount(options=[f"disk={moved}"])
    expect_same(before, snapshot(pool.root), "the tree with the disk found by -o disk=")
    pool.umount()
    expect_equal(
        pool.try_mount().code, 0, "exit code of a mount that finds the disk at its new stored path"
    )
    pool.umount()


@case(
    GROUP,
    "a mounted pool cannot be mounted a second time, nor created over",
    where=OWN_POOLS,
    timeout_s=120,
)
def mounted_twice(bench):
    pool = bench.pool("pool", two_images(bench)).mount()
    (pool.root / "file").write_bytes(b"content")
    second = bench.scratch / "second"
    second.mkdir()
    expect_refusal(dynamicfs("mount", pool.disks[0].path, second), EXIT_ALREADY_MOUNTED, pool.root)
    outcome = dynamicfs("mount", pool.disks[1].path, pool.root)
    expect(
        outcome.code in (EXIT_ALREADY_MOUNTED, EXIT_BAD_MOUNTPOINT), f"{outcome}; expected 10 or 11"
    )
    # The disks are busy as well as in a pool; either may be noticed first.
    outcome = dynamicfs("create", *[disk.path for disk in pool.disks])
    code = outcome.code if outcome.code == EXIT_ALREADY_MOUNTED else EXIT_ALREADY_IN_POOL
    expect_refusal(outcome, code, pool.disks[0])
    expect_equal((pool.root / "file").read_bytes(), b"content", "the file in the first mount")
    expect_equal(os.listdir(second), [], "files in the second mountpoint")
    pool.umount()


@case(GROUP, "mount refuses a mountpoint that is absent, a file, or not empty", where=OWN_POOLS)
def bad_mountpoints(bench):
    pool = bench.pool("pool", two_images(bench))
    before = hashes(pool.disks)
    full, file = bench.scratch / "full", bench.scratch / "a-file"
    full.mkdir()
    (full / "something").write_text("mine")
    file.write_text("mine")
    for mountpoint in (bench.scratch / "absent", file, full):
        expect_refusal(pool.try_mount(mountpoint=mountpoint), EXIT_BAD_MOUNTPOINT, mountpoint)
    expect_equal(os.listdir(full), ["something"], "files in the refused mountpoint")
    expect_equal(hashes(pool.disks), before, "the disks")


@case(
    GROUP,
    "mount says so when there is no /dev/fuse",
    where=OWN_POOLS,
    needs=["mount namespaces", "root"],
)
def no_fuse(bench):
    pool = bench.pool("pool", two_images(bench))
    before = hashes(pool.disks)
    # In a mount namespace of its own the command sees a /dev with little in it.
    script = (
        "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/urandom c 1 9 && "
        'mknod -m 666 /dev/zero c 1 5 && exec "$@"'
    )
    outcome = command(
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        script,
        "sh",
        binary(),
        "mount",
        pool.disks[0].path,
        pool.root,
        check=False,
    )
    expect_refusal(outcome, EXIT_NO_FUSE, "/dev/fuse")
    expect_equal(hashes(pool.disks), before, "the disks")


@case(
    GROUP,
    "a user without the right to mount or to the disks is refused, and told why",
    where=OWN_POOLS,
    needs=["root"],
)
def no_permission(bench):
    pool = bench.pool("pool", two_images(bench))
    if (
        subprocess.run(
            [binary(), "--help"], preexec_fn=as_nobody, capture_output=True, timeout=20
        ).returncode
        != 0
    ):
        raise Skip(f"user nobody cannot run {binary()}")
    for disk in pool.disks:
        disk.path.chmod(0o600)
    before = hashes(pool.disks)
    outcome = dynamicfs("mount", pool.disks[0].path, pool.root, preexec_fn=as_nobody)
    expect_refusal(outcome, EXIT_NO_PERMISSION)
    expect(
        str(pool.disks[0]) in outcome.err or "root" in outcome.err,
        f"the message names neither the disk nor who may: {outcome}",
    )
    expect_equal(hashes(pool.disks), before, "the disks")


# man/format.md, "Superblock": two copies; the checksum covers everything from `size` on.
SUPERBLOCK_OFFSETS = (0, 64 * 1024)
CRC_OFFSET, SIZE_OFFSET, READER_MIN_OFFSET = 8, 12, 16


def crc32c(data):
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def raise_reader_min(volume, version):
    """Makes a volume look as if a later program had written it; returns how many copies were
    changed.
    """
    changed = 0
    with open(volume, "r+b") as file:
        for offset in SUPERBLOCK_OFFSETS:
            file.seek(offset)
            block = bytearray(file.read(64 * 1024))
            size_bytes = struct.unpack_from("<I", block, SIZE_OFFSET)[0]
            if struct.unpack_from("<I", block, CRC_OFFSET)[0] != crc32c(
                block[SIZE_OFFSET:size_bytes]
            ):
                continue
            struct.pack_into("<II", block, READER_MIN_OFFSET, version, version)
            struct.pack_into("<I", block, CRC_OFFSET, crc32c(block[SIZE_OFFSET:size_bytes]))
            file.seek(offset)
            file.write(block)
            changed += 1
    return changed


@case(GROUP, "mount refuses a pool that a newer program wrote", where=OWN_POOLS)
def newer_format(bench):
    pool = bench.pool("pool", two_images(bench))
    for disk in pool.disks:
        expect(
            raise_reader_min(disk.volume, 1000) > 0,
            f"no superblock as man/format.md describes it on {disk}",
        )
    before = hashes(pool.disks)
    expect_refusal(pool.try_mount(), EXIT_NEWER_FORMAT, "1000")
    expect_equal(hashes(pool.disks), before, "the disks")


@case(GROUP, "umount, sync and status refuse what is not mounted", where=OWN_POOLS)
def not_mounted(bench):
    folder = bench.scratch / "folder"
    folder.mkdir()
    for word in ("umount", "sync", "status"):
        expect_refusal(dynamicfs(word, folder), EXIT_NOT_MOUNTED, folder)


@contextlib.contextmanager
def closing_socket(path):
    """Takes every connection and closes it without an answer."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    listener.accept()[0].close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            path.unlink()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@case(
    GROUP,
    "status without a mountpoint lists a mount whose daemon is dead, alone and beside a healthy one",
    where=OWN_POOLS,
)
def status_of_dead_mount(bench):
    dead = bench.pool("dead", [image_disk(bench.scratch / "dead.img", DISK_BYTES)]).mount()
    dead.kill()

    def expect_dead_mount():
        # Other pools of this machine may be listed too: their state is not ours to expect.
        outcome = dynamicfs("status")
        expect_equal(outcome.code, EXIT_NOT_MOUNTED, "exit code of status")
        refusal = dynamicfs("status", dead.root)
        expect_refusal(refusal, EXIT_NOT_MOUNTED, dead.root, dead.disks[0], "umount")
        sentence = f"The daemon of {dead.root} is dead."
        expect(sentence in refusal.err, f"no '{sentence}': {refusal}")
        expect(
            sentence in outcome.out and f"umount {dead.root}" in outcome.out,
            f"status does not list the dead mount: {outcome}",
        )
        everything = dynamicfs("status", "--json")
        expect_equal(everything.code, EXIT_NOT_MOUNTED, "exit code of status --json")
        found = {one["daemon"]["mountpoint"]: one for one in json.loads(everything.out)}
        one = found[str(dead.root)]
        expect_equal(one["pool"]["state"], "dead", "state of the dead mount")
        expect_equal(one["daemon"]["disk"], str(dead.disks[0]), "disk of the dead mount")
        expect(str(dead.root) in one["problems"][0], f"problems: {one['problems']}")
        return found

    expect_dead_mount()
    # A process that has just died: its socket still takes connections, and closes them.
    with closing_socket(Path("/run/dynamicfs/just-died.sock")):
        expect_dead_mount()
    alive = bench.pool("alive", [image_disk(bench.scratch / "alive.img", DISK_BYTES)]).mount()
    expect_equal(
        expect_dead_mount()[str(alive.root)]["pool"]["state"], "healthy", "state of the other pool"
    )
    alive.umount()
    dead.umount()
    expect(
        str(dead.root) not in dynamicfs("status").text, "a mount that is removed is listed still"
    )


@case(
    GROUP,
    "a file of less than a block is judged like a large one: no disk to mount, foreign to create",
    where=OWN_POOLS,
)
def tiny_files(bench):
    folder = bench.scratch / "folder"
    folder.mkdir()
    (folder / "dynamicfs.volume").write_bytes(b"12345")
    empty = bench.scratch / "empty"
    empty.touch()
    tiny = [bench.scratch / f"of-{size}-bytes" for size in (1, 6, 4095, 4096)]
    for path in tiny:
        path.write_bytes(b"x" * int(path.name.split("-")[1]))
    mountpoint = bench.scratch / "mnt"
    mountpoint.mkdir()
    before = snapshot(bench.scratch)
    for path in (folder, empty, *tiny):
        expect_refusal(dynamicfs("mount", path, mountpoint), EXIT_NOT_A_DISK, path)
    for path in tiny:
        outcome = dynamicfs("create", path)
        expect_refusal(outcome, EXIT_FAILED, path, "--force")
        expect("not empty" in outcome.err, f"not judged as foreign: {outcome}")
    expect_refusal(dynamicfs("create", folder), EXIT_FAILED, folder, "not complete")
    expect_refusal(dynamicfs("create", empty), EXIT_USAGE, empty, "40.0 MiB")
    expect_same(before, snapshot(bench.scratch), "after the refusals")


@case(
    GROUP,
    "mount says of a loop device without a file that it is no dynamicfs disk",
    where=OWN_POOLS,
    needs=["loop devices"],
)
def unbound_loop(bench):
    device = loop_disk(bench.scratch / "device.img", DISK_BYTES)
    command("losetup", "--detach", device.path)
    mountpoint = bench.scratch / "mnt"
    mountpoint.mkdir()
    expect_refusal(dynamicfs("mount", device.path, mountpoint), EXIT_NOT_A_DISK, device)


@case(
    GROUP,
    "meson install installs the command, its man page, and mount.dynamicfs where mount(8) looks",
    where=OWN_POOLS,
    needs=["meson"],
)
def installed(bench):
    build = Path(binary()).parents[1]
    if not (build / "meson-private").is_dir():
        raise Skip(f"{binary()} lies in no build directory")
    options = json.loads(command("meson", "introspect", "--buildoptions", build).out)
    prefix = next(one["value"] for one in options if one["name"] == "prefix")
    if prefix not in ("/usr", "/usr/local"):
        raise Skip(f"{build} is configured for {prefix}")
    root = bench.scratch / "root"
    command("meson", "install", "--no-rebuild", "-C", build, "--destdir", root)
    inside = root / prefix[1:]
    expect(os.access(inside / "bin/dynamicfs", os.X_OK), "no command")
    expect(list(inside.glob("share/man/man8/dynamicfs.8*")) != [], "no man page")
    expect((inside / "share/dynamicfs/status.schema.json").exists(), "no schema of status --json")
    helper = root / "usr/sbin/mount.dynamicfs"  # /sbin is a link to it since Debian 12
    expect_equal(os.readlink(helper), f"{prefix}/bin/dynamicfs", "what mount.dynamicfs leads to")


@case(
    GROUP,
    "create refuses a disk that is read-only before it changes anything, naming it",
    where=OWN_POOLS,
    needs=["loop devices"],
)
def create_read_only(bench):
    fresh = directory_disk(bench.scratch / "fresh")
    old = image_disk(bench.scratch / "old.img", DISK_BYTES)
    with open(old.volume, "r+b") as file:
        file.write(b"x" * MIB)
    image = image_disk(bench.scratch / "device.img", DISK_BYTES)
    device = command("losetup", "--find", "--show", "--read-only", image.path).out.strip()
    folder = directory_disk(bench.scratch / "folder")
    command("mount", "-t", "tmpfs", "-o", "ro", "none", folder.path)
    before = hashes([old])
    for path in (device, folder.path):
        outcome = dynamicfs("create", "--force", fresh.path, old.path, path)
        expect_refusal(outcome, EXIT_NO_PERMISSION, path, "read-only")
        expect_equal(os.listdir(fresh.path), [], "files on the first disk")
        expect_equal(hashes([old]), before, "the second disk")


@case(
    GROUP,
    "create names the disk that fails while the pool is written, and removes what it made",
    where=OWN_POOLS,
    needs=["root"],
)
def create_on_full_disk(bench):
    disks = [directory_disk(bench.scratch / name) for name in ("roomy", "small")]
    command("mount", "-t", "tmpfs", "-o", "size=4m", "none", disks[1].path)
    outcome = dynamicfs("create", "--size", "256M", *[disk.path for disk in disks])
    expect_refusal(outcome, EXIT_FAILED, f"cannot be written to {disks[1]}:", "Make room")
    expect_equal([os.listdir(disk.path) for disk in disks], [[], []], "files on the disks")


@case(GROUP, "what a mount is told of memory and order bounds what the kernel hands over", where=OWN_POOLS)
def memory_options(bench):
    disks = [image_disk(bench.scratch / "disk.img", DISK_BYTES)]
    options = ["write_memory=20M", "read_memory=8M", "background=25", "background_limit=60", "order=fifo"]
    pool = bench.pool("pool", disks, options=options).mount()
    _, status = pool.status()
    expect_equal(status["fuse"]["receive_buffers_max"], 22, "20 for writes and one for each reader")
    limited = "max_bytes" in status["fuse"]["kernel"]
    expect_equal(status["fuse"]["max_background"], 16, "four fifths of them are for writeback and reads")
    if limited:
        dirty = int(status["fuse"]["kernel"]["max_bytes"]["now"])
        expect(8 << 20 < dirty <= 12 << 20, f"what may be dirty: {dirty}, and three fifths are 12 MiB")
        # The kernel keeps a part of what is free, so the number moves; it is put right again.
        limit = Path(f"/sys/class/bdi/{status['daemon']['device']}/max_bytes")
        limit.write_text(str(3 * dirty))
        wait_until(lambda: int(limit.read_text()) <= 13 << 20, 20, "the limit is 12 MiB again", 0.2)
    daemon = status["daemon"]
    expect_equal(daemon["read_memory_bytes"], 8 << 20, "memory for reads")
    expect_equal((daemon["background_percent"], daemon["background_limit_percent"], daemon["order"]),
                 (25, 60, "fifo"), "how disks are served")
    for options, expected in ((["background=30"], (30, 30)), (["background_limit=2"], (2, 2)),
                              (["background=30", "background_limit=2"], (2, 2))):
        pool.umount()
        pool.options = tuple(options)
        pool.mount()
        daemon = pool.status()[1]["daemon"]
        found = (daemon["background_percent"], daemon["background_limit_percent"])
        expect_equal(found, expected, f"background of {options}")
    content = bench.rng.randbytes(40 << 20)
    (pool.root / "file").write_bytes(content)
    pool.remount()
    expect((pool.root / "file").read_bytes() == content, "the file is wrong")
    pool.umount()


@case(GROUP, "with group_commit_wait an fsync waits for others, and they share a batch", where=OWN_POOLS)
def group_commit_options(bench):
    writers, rounds, wait_us = 8, 50, 2000
    disks = [image_disk(bench.scratch / "disk.img", DISK_BYTES)]
    pool = bench.pool("pool", disks, options=[f"group_commit_wait={wait_us}", f"group_commit_ops={writers}"])
    pool.mount()
    daemon = pool.status()[1]["daemon"]
    expect_equal(
        (daemon["group_commit_wait_us"], daemon["group_commit_ops"]), (wait_us, writers), "the options in the status"
    )

    def write_and_sync(number):
        with open(pool.root / f"log {number}", "ab", buffering=0) as file:
            for _ in range(rounds):
                file.write(b"line\n")
                os.fsync(file.fileno())

    started = time.monotonic()
    write_and_sync("alone")
    seconds = time.monotonic() - started
    expect(seconds >= rounds * wait_us / 1e6, f"{rounds} fsyncs waited {seconds:.3f} s for others")
    before = pool.metrics()
    processes = [multiprocessing.Process(target=write_and_sync, args=(n,)) for n in range(writers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        expect_equal(process.exitcode, 0, "exit code of a writer")
    after = pool.metrics()
    counted = {name: after[name] - before[name] for name in after if name.startswith("group_commit")}
    shared = {name: count for name, count in counted.items() if name.startswith("group_commits_for_")}
    expect(counted["group_commit_settles"] > 0, f"no batch waited for company: {counted}")
    expect(0 < sum(shared.values()) <= counted["group_commits"], f"batches somebody waited for: {counted}")
    # Who finds that a batch of another has taken his record along waits for none.
    waiters = counted["group_commit_waiters"]
    expect(writers * rounds / 2 < waiters <= writers * rounds, f"fsyncs that batches were for: {counted}")
    expect(sum(shared.values()) < writers * rounds / 2, f"they did not share batches: {counted}")
    pool.umount()


@case(
    GROUP,
    "create recognises a disk that is given twice, through a link or behind a loop device",
    where=OWN_POOLS,
    needs=["loop devices"],
)
def given_twice(bench):
    folder = directory_disk(bench.scratch / "folder")
    link = bench.scratch / "link"
    link.symlink_to(folder.path)
    image = image_disk(bench.scratch / "device.img", 2 * DISK_BYTES)
    attach = ("losetup", "--find", "--show", "--sizelimit", DISK_BYTES)
    first, again, second = [
        command(*attach, *more, image.path).out.strip()
        for more in ((), (), ("--offset", DISK_BYTES))
    ]
    node = bench.scratch / "node"
    os.mknod(node, 0o600 | stat.S_IFBLK, os.stat(first).st_rdev)
    before = hashes([image])
    for one, other in (
        (folder.path, link),
        (folder.path, folder.volume),
        (bench.scratch / "new.img", f"{link}/../new.img"),
        (first, image.path),
        (image.path, second),
        (first, again),
        (first, node),
    ):
        outcome = dynamicfs("create", "--size", "256M", one, other)
        expect_refusal(outcome, EXIT_USAGE, one, "are the same disk", "once")
    expect_equal(os.listdir(folder.path), [], "files in the directory")
    expect_equal(hashes([image]), before, "the image")
    # Two devices over different parts of one file are two disks.
    expect_equal(dynamicfs("create", first, second).code, 0, "exit code for two halves")


@case(
    GROUP,
    "create takes one line of at most 64 bytes of UTF-8 as a label, and names that rule",
    where=OWN_POOLS,
)
def labels(bench):
    disk = directory_disk(bench.scratch / "disk")
    for label, rule in (
        ("x" * 65, "64 bytes"),
        ("\u00e4" * 33, "64 bytes"),
        ("two\nlines", "one line"),
        ("a\tb", "one line"),
        ("\x1b[31mred", "one line"),
        ("\x7f", "one line"),
        ("\u0085", "one line"),  # next line, of the C1 controls
        (b"latin \xe4", "UTF-8"),
        (b"overlong \xc0\xaf", "UTF-8"),
        (b"overlong \xe0\x80\xaf", "UTF-8"),
        (b"surrogate \xed\xa0\x80", "UTF-8"),
        (b"cut \xe2\x82", "UTF-8"),
    ):
        outcome = dynamicfs("create", "--size", "64M", "--label", os.fsdecode(label), disk.path)
        expect_refusal(outcome, EXIT_USAGE, rule)
        expect_equal(os.listdir(disk.path), [], f"files after the label {label!r}")
    for number, label in enumerate(("\u00e4" * 32, "photos \u20ac \U0001f4f7 \u65e5", "\\ \"'")):
        image = bench.scratch / f"{number}.img"
        outcome = dynamicfs("create", "--size", "64M", "--label", label, image, check=True)
        expect(f"{label} (" in outcome.out, f"create does not show the label: {outcome.out}")


@case(
    GROUP,
    "an option without its value, or an empty word, is refused with a sentence that says what it needs",
    where=OWN_POOLS,
)
def values_missing(bench):
    disk, mountpoint = directory_disk(bench.scratch / "disk"), bench.scratch / "mnt"
    mountpoint.mkdir()
    fresh = bench.scratch / "fresh.img"
    mount = ("mount", disk.path, mountpoint, "-o")
    with open("/proc/meminfo") as lines:
        memory = next(int(line.split()[1]) for line in lines if line.startswith("MemTotal")) >> 10
    usual = min(max(memory // 16, 128), 512)
    for words, sentence in (
        (mount, "-o needs a list of options, for example -o noatime."),
        (("create", disk.path, "--redundancy"), "for example --redundancy replica:2."),
        (("create", disk.path, "--size"), "--size needs a value, for example --size 20G."),
        (("create", disk.path, "--label"), "--label needs a value"),
        # Not a label of "--size" and a disk of that size.
        (("create", "--label=", "--size", "64M", fresh), "--label needs a value"),
        (("create", "--size=", fresh), "--size needs a value"),
        (("create", "--size", "", disk.path), "The size is empty."),
        (("create", "--redundancy", "", disk.path), "The redundancy is empty."),
        (("create", disk.path, ""), "The name of a disk is empty."),
        (("mount", "", mountpoint), "The name of the disk is empty."),
        (("mount", disk.path, ""), "The mountpoint is empty."),
        (("umount", ""), "The mountpoint is empty."),
        (("sync", ""), "The mountpoint is empty."),
        (("status", ""), "The mountpoint is empty."),
        (("scrub", "start", ""), "The mountpoint is empty."),
        ((*mount, "disk="), "disk= needs a path."),
        ((*mount, "depth=0"), "-o depth=64."),
        ((*mount, "workers=17"), "-o workers=2."),
        ((*mount, "background=0"), "-o background=5."),
        ((*mount, "background_limit=101"), "-o background_limit=20."),
        ((*mount, "write_batch_extents=0"), "-o write_batch_extents=10."),
        ((*mount, "write_batch_bytes=17M"), "-o write_batch_bytes=1M."),
        ((*mount, "write_memory=1M"), f"-o write_memory={usual}M."),
        ((*mount, "read_memory=lots"), "-o read_memory=256M."),
        ((*mount, "metadata_memory=7M"), "-o metadata_memory=256M."),
        ((*mount, "metadata_memory=65G"), "-o metadata_memory=256M."),
        ((*mount, "metadata_memory=much"), "-o metadata_memory=256M."),
        ((*mount, "metadata_memory="), "-o metadata_memory=256M."),
        ((*mount, "order=lifo"), "neither order=priority nor order=fifo."),
        ((*mount, "readers="), "-o readers=2."),
        ((*mount, "commit_interval=soon"), "-o commit_interval=5."),
        ((*mount, "group_commit_ops=0"), "-o group_commit_ops=64."),
        ((*mount, "group_commit_wait=1s"), "-o group_commit_wait=0."),
        ((*mount, "group_commit_wait=1000001"), "-o group_commit_wait=0."),
    ):
        expect_refusal(dynamicfs(*words), EXIT_USAGE, sentence)
    expect_equal(os.listdir(disk.path), [], "files in the refused directory")
    expect_equal(sorted(os.listdir(bench.scratch)), ["disk", "mnt"], "files beside it")
    helper = bench.scratch / "mount.dynamicfs"
    helper.symlink_to(binary())
    outcome = command(helper, disk.path, mountpoint, "-o", check=False)
    expect_refusal(outcome, EXIT_USAGE, "-o needs a list of options")
    outcome = command(helper, disk.path, "", check=False)
    expect_refusal(outcome, EXIT_USAGE, "The mountpoint is empty.")
    expect_refusal(dynamicfs("mount", "/dev/null", mountpoint), EXIT_NOT_A_DISK, "Give one of these")


@case(
    GROUP,
    "create warns of all disks that share a device, and counts the copies that die with it",
    where=OWN_POOLS,
)
def shared_device(bench):
    for redundancy, count, copies in (
        ("replica:2", 2, "both copies"),
        ("replica:2", 3, "both copies"),
        ("replica:3", 3, "all 3 copies"),
    ):
        disks = [
            directory_disk(bench.scratch / f"{redundancy}-{count}-{letter}").path
            for letter in "abc"[:count]
        ]
        words = ("--size", "64M", "--redundancy", redundancy)
        outcome = dynamicfs("create", *words, *disks, check=True)
        names = f"{', '.join(map(str, disks[:-1]))} and {disks[-1]} lie on the same device"
        expect(names in outcome.err, f"not all disks are named: {outcome.err}")
        expect(copies in outcome.err, f"not '{copies}': {outcome.err}")


@case(
    GROUP,
    "create says how many of the copies die with a device that holds some of the disks",
    where=OWN_POOLS,
    needs=["root"],
)
def partly_shared_device(bench):
    disks = [directory_disk(bench.scratch / letter).path for letter in "abc"]
    command("mount", "-t", "tmpfs", "-o", "size=256m", "none", disks[2])
    outcome = dynamicfs("create", "--size", "64M", "--redundancy", "replica:3", *disks, check=True)
    expect(f"{disks[0]} and {disks[1]} lie" in outcome.err, f"not named: {outcome.err}")
    expect("2 of 3 copies" in outcome.err, f"not '2 of 3 copies': {outcome.err}")


@case(GROUP, "fsfreeze is refused by the kernel, and holds nobody up", where=OWN_POOLS, needs=["root", "fsfreeze"])
def frozen(bench):
    pool = bench.pool("pool", two_images(bench)).mount()
    for option, why in (("--freeze", "not supported"), ("--unfreeze", "Invalid argument")):
        refused = command("fsfreeze", option, pool.root, check=False, timeout_s=30)
        expect(refused.code != 0, f"fsfreeze {option} did something: dynamicfs(8) has to say what")
        expect(why in refused.err, f"another refusal than dynamicfs(8) tells of: {refused}")
        (pool.root / "file").write_text(option)
    pool.umount()


@case(
    GROUP,
    "umount while another mount namespace has the mount: it is gone here, all is durable, and that one is named",
    where=OWN_POOLS,
    needs=["mount namespaces", "root"],
    timeout_s=180,
)
def held_elsewhere(bench):
    pool = bench.pool("pool", two_images(bench)).mount()
    daemon = pool.daemon_pid()
    script = "cd / && echo ready && exec sleep 1000"
    holder = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    inside = Path(f"/proc/{holder.pid}/root{pool.root}")
    try:
        expect_equal(holder.stdout.readline(), "ready\n", "the namespace")
        content = bench.random_bytes(3 * MIB)
        (pool.root / "file").write_bytes(content)
        held = dynamicfs("umount", pool.root, timeout_s=60)
        expect_refusal(held, EXIT_MOUNT_HELD, pool.root, holder.pid, "(sleep)", "on the disks")
        expect(not os.path.ismount(pool.root), "it is mounted here still")
        expect((inside / "file").read_bytes() == content, "the other namespace reads something else")
        again = dynamicfs("umount", pool.root)
        expect_refusal(again, EXIT_NOT_MOUNTED, pool.root)
        # Durable: it outlives the daemon, and nobody has asked for more.
        os.kill(daemon, signal.SIGKILL)
    finally:
        holder.kill()
        holder.wait(20)
        holder.stdout.close()
    wait_until(lambda: not is_running(daemon), 30, "the end of the daemon")
    pool.mount()
    expect((pool.root / "file").read_bytes() == content, "what was written is not there")
    pool.umount()


@case(
    GROUP,
    "umount waits for a mount namespace that is about to end",
    where=OWN_POOLS,
    needs=["mount namespaces", "root"],
)
def held_for_a_moment(bench):
    pool = bench.pool("pool", two_images(bench)).mount()
    daemon = pool.daemon_pid()
    holder = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", "cd / && echo ready && exec sleep 2"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    expect_equal(holder.stdout.readline(), "ready\n", "the namespace")
    pool.umount()
    expect(not is_running(daemon), "the daemon runs")
    holder.wait(20)
    holder.stdout.close()
