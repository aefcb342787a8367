"""Mount options, all the ways to a mount (mount(8), fstab, fusermount3), and pools of ordinary users.

Cases that need /sbin/mount.dynamicfs, a /dev/fuse that anybody may open, or another /etc/fuse.conf
have a mount namespace of their own, so nobody else sees them.
"""

import contextlib
import ctypes
import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

from case import OWN_POOLS, case
from harness import (
    NOBODY_UID,
    Skip,
    as_nobody,
    command,
    die_with_parent,
    expect,
    expect_equal,
    wait_until,
)
from targets import (
    EXIT_BAD_MOUNTPOINT,
    EXIT_FAILED,
    EXIT_NO_PERMISSION,
    EXIT_USAGE,
    MIB,
    binary,
    dynamicfs,
    expect_refusal,
    image_disk,
)

GROUP = "options"
DISK_BYTES = 128 * MIB


def _pool(bench, name="pool", options=()):
    return bench.pool(name, [image_disk(bench.scratch / f"{name}.img", DISK_BYTES)], options=options)


def _mount_flags(root):
    """What /proc/self/mountinfo shows of the mount at `root`: its flags and those of its super block."""
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        words = line.split()
        if words[4] == str(root):
            return set(words[5].split(",")), set(words[words.index("-") + 3].split(","))
    return set(), set()


def _errno_of(action):
    try:
        action()
    except OSError as error:
        return error.errno
    return 0


def _own_namespace(bench):
    """A mount namespace of this process's own, in which /dev/fuse is open to anybody, mount(8) finds
    our helper, and /etc/fuse.conf can be written to."""
    clone_newns = 0x00020000
    if ctypes.CDLL(None, use_errno=True).unshare(clone_newns) != 0:
        raise Skip("mount namespaces cannot be made")
    command("mount", "--make-rprivate", "/")
    own = bench.scratch / "own"
    own.mkdir()
    command("mount", "-t", "tmpfs", "-o", "mode=755", "none", own)
    for name in ("sbin", "bin", "upper", "work"):
        (own / name).mkdir()
    program = own / "bin" / "dynamicfs"
    shutil.copy(binary(), program)
    program.chmod(0o755)
    for name in ("mount.dynamicfs", "mount.fuse.dynamicfs"):
        (own / "sbin" / name).symlink_to(program)
    overlay = f"lowerdir={own / 'sbin'}:/usr/sbin"
    if command("mount", "-t", "overlay", "-o", overlay, "none", "/usr/sbin", check=False).code != 0:
        raise Skip("there is no overlayfs to put mount.dynamicfs into /usr/sbin")
    os.mknod(own / "fuse", stat.S_IFCHR | 0o666, os.stat("/dev/fuse").st_rdev)
    os.chmod(own / "fuse", 0o666)
    command("mount", "--bind", own / "fuse", "/dev/fuse")
    (own / "fuse.conf").write_text("")
    command("mount", "--bind", own / "fuse.conf", "/etc/fuse.conf")
    bench.scratch.chmod(0o755)
    for parent in bench.scratch.parents:
        if parent != Path("/") and not os.stat(parent).st_mode & 0o001:
            raise Skip(f"user nobody cannot get at {bench.scratch}")
    return program


class _User:
    """An ordinary user with a home, who runs our command there."""

    def __init__(self, bench, program):
        self.program = program
        self.home = bench.scratch / "home"
        self.home.mkdir()
        os.chown(self.home, NOBODY_UID, NOBODY_UID)
        # The name of a socket is 107 bytes long at most; only this namespace sees it here.
        runtime = program.parents[1] / "run"
        runtime.mkdir()
        os.chown(runtime, NOBODY_UID, NOBODY_UID)
        runtime.chmod(0o700)
        command("mount", "--bind", runtime, "/mnt")
        self.runtime = Path("/mnt")
        self.root = self.home / "mnt"
        self.run("mkdir", self.root)

    def run(self, *words, check=True, timeout_s=60, **changed):
        surroundings = {
            "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": "/mnt",
            **changed,
        }
        return command(
            *words,
            check=check,
            timeout_s=timeout_s,
            cwd=self.home,
            preexec_fn=as_nobody,
            env=surroundings,
        )

    def dynamicfs(self, *words, check=True, **changed):
        return self.run(self.program, *words, check=check, **changed)

    def is_mounted(self):
        return _mount_flags(self.root) != (set(), set())

    def daemon_pid(self):
        return json.loads(self.dynamicfs("status", self.root, "--json").out)["daemon"]["pid"]


@case(
    GROUP,
    "flags of every mount are the kernel's, and do what they say",
    where=OWN_POOLS,
    needs=["root"],
)
def kernel_flags(bench):
    pool = _pool(bench).mount()
    program = pool.root / "true"
    shutil.copy("/bin/true", program)
    program.chmod(0o755)
    os.mknod(pool.root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    pool.umount()
    for option, opposite in (
        ("nosuid", "suid"),
        ("nodev", "dev"),
        ("noexec", "exec"),
        ("noatime", "atime"),
        ("nodiratime", "diratime"),
        ("relatime", "strictatime"),
        ("ro", "rw"),
    ):
        pool.mount(options=[option])
        flags, _ = _mount_flags(pool.root)
        expect(option in flags, f"-o {option} is not among {flags}")
        if option == "noexec":
            expect_equal(
                _errno_of(lambda: subprocess.run([program], check=True)), errno.EACCES, "exec"
            )
        if option == "nodev":
            expect_equal(_errno_of(lambda: open(pool.root / "null")), errno.EACCES, "a device")
        if option == "ro":
            expect_equal(_errno_of(lambda: open(pool.root / "new", "w")), errno.EROFS, "create")
        pool.umount()
        pool.mount(options=[option, opposite])  # The last one counts.
        flags, _ = _mount_flags(pool.root)
        expect(option not in flags, f"-o {option},{opposite} leaves {option} among {flags}")
        if option == "noexec":
            command(program)
        if option == "nodev":
            open(pool.root / "null").close()
        pool.umount()
    for option in ("sync", "dirsync"):
        pool.mount(options=[option])
        flags, above = _mount_flags(pool.root)
        expect(option in flags | above, f"-o {option} is not among {flags | above}")
        pool.umount()


@case(GROUP, "what is no option is refused by its name, and so is what makes no sense here", where=OWN_POOLS)
def unknown_options(bench):
    pool = _pool(bench)
    for word in ("sensible", "uid=1000", "gid=5", "umask=022", "allow_root", "noatime=yes", "auto_unmount"):
        outcome = pool.try_mount(options=["noatime", word])
        expect_refusal(outcome, EXIT_USAGE, word)
        expect(not os.path.ismount(pool.root), f"-o {word} was refused and mounted")
    words = "defaults,auto,nofail,_netdev,user,default_permissions,allow_other,x-systemd.automount,acl"
    pool.mount(options=words.split(","))
    pool.umount()


@case(
    GROUP,
    "what root mounts others may use, as far as owners and modes allow",
    where=OWN_POOLS,
    needs=["root"],
)
def others(bench):
    bench.scratch.chmod(0o755)
    pool = _pool(bench).mount()
    pool.directory.chmod(0o755)
    (pool.root / "open").write_text("open")
    (pool.root / "closed").write_text("closed")
    (pool.root / "closed").chmod(0o600)
    (pool.root / "all").mkdir()
    (pool.root / "all").chmod(0o777)
    expect_equal(command("cat", pool.root / "open", preexec_fn=as_nobody).out, "open", "a file")
    refused = command("cat", pool.root / "closed", preexec_fn=as_nobody, check=False)
    expect("Permission denied" in refused.err, f"a closed file can be read: {refused}")
    command("touch", pool.root / "all" / "theirs", preexec_fn=as_nobody)
    expect_equal(os.stat(pool.root / "all" / "theirs").st_uid, NOBODY_UID, "the owner")
    pool.umount()


@case(
    GROUP,
    "remount makes a mount read-only and writable again while the daemon goes on; what it cannot change it says",
    where=OWN_POOLS,
    needs=["root"],
)
def remount(bench):
    pool = _pool(bench).mount()
    root = pool.root
    pid = pool.daemon_pid()
    (root / "file").write_text("before")

    def again(options, check=True):
        return dynamicfs("mount", pool.disks[0].path, root, "-o", options, check=check)

    again("remount,strictatime")
    again("remount,ro,strictatime")
    command("sh", "-c", "echo 2 > /proc/sys/vm/drop_caches")
    before = os.stat(root).st_atime_ns
    os.listdir(root)
    command("sh", "-c", "echo 2 > /proc/sys/vm/drop_caches")
    expect_equal(os.stat(root).st_atime_ns, before, "the time of access while it is read-only")
    again("remount,rw")
    again("remount,ro")
    expect("ro" in _mount_flags(root)[1], "the super block is not read-only")
    expect_equal(_errno_of(lambda: open(root / "new", "w")), errno.EROFS, "create")
    expect_equal(_errno_of(lambda: os.unlink(root / "file")), errno.EROFS, "unlink")
    expect_equal((root / "file").read_text(), "before", "the file")
    dynamicfs("sync", root, check=True)
    expect_equal(pool.status()[1]["daemon"]["read_only"], False, "what the daemon was started with")
    again("remount,rw")
    (root / "new").write_text("again")
    again("remount,noatime,nosuid")
    expect({"noatime", "nosuid"} <= _mount_flags(root)[0], "noatime and nosuid are not there")
    again("remount")
    expect("nosuid" not in _mount_flags(root)[0], "nosuid is still there")
    with open(root / "file", "r+"):
        expect_refusal(again("remount,ro", check=False), EXIT_FAILED, "open for writing")
    expect_refusal(again("remount,sensible", check=False), EXIT_USAGE, "sensible")
    expect_equal(pool.daemon_pid(), pid, "the daemon")
    pool.umount()
    pool.mount(options=["ro"])
    outcome = again("remount,rw", check=False)
    expect_refusal(outcome, EXIT_FAILED, "was mounted with ro", root)
    expect_equal(_errno_of(lambda: open(root / "third", "w")), errno.EROFS, "create")
    pool.umount()
    pool.mount()
    expect_equal(sorted(os.listdir(root)), ["file", "new"], "the names")
    pool.umount()


@case(
    GROUP,
    "a pool that was never mounted is refused with -o ro, and one that is mounted so takes no disk",
    where=OWN_POOLS,
)
def read_only_pool(bench):
    pool = _pool(bench)
    expect_refusal(pool.try_mount(options=["ro"]), EXIT_FAILED, "never been mounted", "without -o ro")
    pool.mount().umount()
    pool.mount(options=["ro"])
    pid = pool.daemon_pid()
    more = image_disk(bench.scratch / "more.img", DISK_BYTES)
    expect_refusal(dynamicfs("disk", "add", pool.root, more.path), EXIT_FAILED, "read-only")
    expect_equal(pool.daemon_pid(), pid, "the daemon")
    pool.umount()


@case(
    GROUP,
    "mount(8) mounts, remounts and unmounts by type, by a line of fstab and with -a",
    where=OWN_POOLS,
    needs=["root"],
)
def mount_program(bench):
    _own_namespace(bench)
    pool = _pool(bench)
    disk, root = pool.disks[0].path, pool.root
    table = bench.scratch / "fstab"

    def ended():
        return not any(
            str(disk) in words for words in _command_lines("dynamicfs")
        )

    for kind in ("dynamicfs", "fuse.dynamicfs"):
        command("mount", "-t", kind, "-o", "noatime,writeback=off", disk, root)
        expect("noatime" in _mount_flags(root)[0], "noatime is not there")
        expect_equal(pool.status()[1]["daemon"]["writeback"], False, "writeback")
        (root / kind).write_text("here")
        command("mount", "-o", "remount,ro", root)
        flags, above = _mount_flags(root)
        expect("ro" in above and "noatime" in flags, f"after a remount: {flags} {above}")
        expect_equal(_errno_of(lambda: open(root / "new", "w")), errno.EROFS, "create")
        command("mount", "-o", "remount,rw", root)
        (root / kind).write_text("changed")
        command("umount", root)
        wait_until(ended, 30, "the end of the daemon")
    table.write_text(f"{disk}  {root}  dynamicfs  noauto,nodev,acl  0  0\n")
    command("mount", "-T", table, "-a")
    expect(not os.path.ismount(root), "noauto was mounted")
    command("mount", "-T", table, root)
    expect("nodev" in _mount_flags(root)[0], "nodev is not there")
    expect_equal(pool.status()[1]["daemon"]["acl"], True, "acl")
    expect_equal((root / "dynamicfs").read_text(), "changed", "the file")
    command("umount", root)
    wait_until(ended, 30, "the end of the daemon")
    table.write_text(f"{disk}  {root}  fuse.dynamicfs  defaults,nofail  0  0\n")
    command("mount", "-T", table, "-a")
    expect(os.path.ismount(root), "mount -a has not mounted it")
    command("mount", "-T", table, "-a")  # It is mounted already.
    expect_equal(len([1 for line in Path("/proc/self/mountinfo").read_text().splitlines()
                      if line.split()[4] == str(root)]), 1, "mounts there")  # fmt: skip
    dynamicfs("umount", root, check=True)
    refused = command("mount", "-t", "dynamicfs", "-o", "sensible", disk, root, check=False)
    expect(refused.code != 0 and "sensible" in refused.err, f"no word of it: {refused}")


def _command_lines(name):
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{entry}/cmdline").read_text().split("\0")
        except OSError:
            continue
        if any(os.path.basename(word).endswith(name) for word in words[:1]):
            yield words


@case(
    GROUP,
    "an ordinary user makes, mounts, uses and unmounts a pool of their own, and root keeps out",
    where=OWN_POOLS,
    needs=["root", "fusermount3"],
)
def ordinary_user(bench):
    program = _own_namespace(bench)
    user = _User(bench, program)
    folder = user.home / "folder"
    user.run("mkdir", folder)
    for kind, disks in (
        ("images", [user.home / "a.img", user.home / "b.img"]),
        ("a directory", [folder]),
    ):
        user.dynamicfs("create", "--size", "64M", *disks)
        for leave in (
            ("fusermount3", "-u", user.root),
            ("umount", user.root),
            (program, "umount", user.root),
        ):
            user.dynamicfs("mount", disks[0], user.root)
            pid = user.daemon_pid()
            bench.workspace.note_process(pid, below=bench.scratch)
            flags, above = _mount_flags(user.root)
            expect({"nosuid", "nodev"} <= flags, f"flags of a user's mount: {flags}")
            expect("allow_other" not in above, f"options of a user's mount: {above}")
            user.run("sh", "-c", f"echo text > {user.root}/file && mkdir -p {user.root}/d")
            expect_equal(user.run("cat", user.root / "file").out, "text\n", f"{kind}: a file")
            user.dynamicfs("sync", user.root)
            status = json.loads(user.dynamicfs("status", "--json").out)
            expect_equal(len(status), 1, "pools that status shows them")
            refused = user.run("chown", "1", user.root / "file", check=False)
            expect("not permitted" in refused.err, f"they may give files away: {refused}")
            # The kernel keeps everybody else out, so that a daemon of theirs cannot trap root.
            expect_equal(_errno_of(lambda: os.listdir(user.root)), errno.EACCES, "root")
            for asked in ("umount", "status", "sync"):
                outcome = command(program, asked, user.root, check=False)
                expect_refusal(outcome, EXIT_NO_PERMISSION, f"the user {NOBODY_UID}")
            expect(user.is_mounted(), "root's umount has not waited for their daemon")
            user.run(*leave)
            wait_until(lambda: not os.path.exists(f"/proc/{pid}"), 30, f"the end after {leave[0]}")
            expect(not user.is_mounted(), f"still mounted after {leave[0]}")
        user.dynamicfs("check", "--data", disks[0])
    log = list((user.home / ".local/state/dynamicfs").glob("*.log"))
    expect_equal(len(log), 2, "logs in their home")


@case(
    GROUP,
    "a user who is refused is told why: the mountpoint, allow_other, no fusermount3, somebody else's mount",
    where=OWN_POOLS,
    needs=["root", "fusermount3"],
)
def user_refusals(bench):
    program = _own_namespace(bench)
    user = _User(bench, program)
    disk = user.home / "disk.img"
    user.dynamicfs("create", "--size", "64M", disk)

    def refused(*words, **how):
        return user.dynamicfs(*words, check=False, **how)

    (bench.scratch / "roots").mkdir(mode=0o755)
    outcome = refused("mount", disk, bench.scratch / "roots")
    expect_refusal(outcome, EXIT_NO_PERMISSION, bench.scratch / "roots", "has to be yours")
    expect_refusal(refused("mount", disk, "/proc/none"), EXIT_BAD_MOUNTPOINT, "/proc/none")
    outcome = refused("mount", disk, user.root, "-o", "allow_other")
    expect_refusal(outcome, EXIT_NO_PERMISSION, "user_allow_other", "/etc/fuse.conf")
    Path("/etc/fuse.conf").write_text("user_allow_other\n")
    user.dynamicfs("mount", disk, user.root, "-o", "allow_other")
    bench.workspace.note_process(user.daemon_pid(), below=bench.scratch)
    user.run("sh", "-c", f"echo text > {user.root}/file")
    expect_equal((user.root / "file").read_text(), "text\n", "what root reads")
    # A daemon without privilege cannot have the kernel hand over what is dirty, so no file can be closed to changes.
    (user.root / "file").write_text("dirty")
    refusal = command("chattr", "+i", user.root / "file", check=False)
    expect("resource busy" in refusal.err, f"chattr +i: {refusal}")
    expect_equal(_errno_of(lambda: (user.root / "file").write_text("text\n")), 0, "a write after that")
    os.mkdir(user.root / "roots")
    expect_equal(os.stat(user.root / "roots").st_uid, 0, "the owner of what root makes")
    refusal = user.run("rmdir", user.root / "roots", check=False)
    expect_equal(refusal.code, 0, "exit code of rmdir in their own directory")
    user.dynamicfs("umount", user.root)
    alone = bench.scratch / "own" / "alone"
    alone.mkdir()
    outcome = command(
        program, "mount", disk, user.root, check=False, preexec_fn=as_nobody,
        env={"PATH": str(alone), "HOME": str(user.home), "XDG_RUNTIME_DIR": str(user.runtime)},
    )  # fmt: skip
    expect_refusal(outcome, EXIT_NO_PERMISSION, "fusermount3")
    pool = _pool(bench).mount()
    expect_refusal(refused("umount", pool.root), EXIT_NO_PERMISSION, pool.root)
    expect_refusal(
        refused("mount", pool.disks[0].path, pool.root, "-o", "remount,ro"), EXIT_NO_PERMISSION
    )
    pool.umount()


@case(
    GROUP,
    "a socket that somebody else has put where a user's would be is not believed",
    where=OWN_POOLS,
    needs=["root"],
)
def forged_socket(bench):
    program = _own_namespace(bench)
    user = _User(bench, program)
    somebody = NOBODY_UID - 1
    directory = Path(f"/tmp/dynamicfs-{NOBODY_UID}")
    directory.mkdir(exist_ok=True)
    command("mount", "-t", "tmpfs", "-o", f"mode=755,uid={somebody},gid={somebody}", "none", directory)
    server = (
        "import os, socket, sys\n"
        f"os.setuid({somebody})\n"
        "listener = socket.socket(socket.AF_UNIX)\n"
        "listener.bind(sys.argv[1])\n"
        "os.chmod(sys.argv[1], 0o777)\n"
        "listener.listen()\n"
        "while True:\n"
        "    connection, _ = listener.accept()\n"
        "    connection.recv(100)\n"
        "    connection.sendall(b'{\"ok\": true, \"pid\": \"a text\", \"mountpoint\": \"/forged\"}\\n')\n"
    )
    forged = directory / "00000000-0000-4000-8000-000000000000.sock"
    process = subprocess.Popen(
        [sys.executable, "-c", server, forged], preexec_fn=die_with_parent, cwd="/",
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_until(forged.exists, 20, "the forged socket")
        asked = {
            "check": False, "preexec_fn": as_nobody, "cwd": user.home,
            "env": {"PATH": "/usr/bin:/bin", "HOME": str(user.home)},
        }  # fmt: skip
        outcome = command(program, "status", **asked)
        forged.unlink()
        alone = command(program, "status", **asked)
        expect("/forged" not in outcome.text and "unexpected" not in outcome.text, f"it is believed: {outcome}")
        expect_equal(outcome.out, alone.out, "what status says beside it")
    finally:
        process.kill()
        process.wait(20)
        command("umount", directory)
        with contextlib.suppress(OSError):  # A daemon of that user may be at home there.
            directory.rmdir()


@case(
    GROUP,
    "an XDG_RUNTIME_DIR that is somebody else's, or open to others, is refused with the remedy",
    where=OWN_POOLS,
    needs=["root", "fusermount3"],
)
def foreign_runtime_directory(bench):
    program = _own_namespace(bench)
    user = _User(bench, program)
    disk = user.home / "disk.img"
    user.dynamicfs("create", "--size", "64M", disk)
    places = {name: program.parents[1] / name for name in ("roots", "somebodys", "open", "absent")}
    for name, owner, mode in (("roots", 0, 0o700), ("somebodys", NOBODY_UID - 1, 0o777), ("open", NOBODY_UID, 0o777)):
        places[name].mkdir()
        os.chown(places[name], owner, owner)
        places[name].chmod(mode)
    for place in (*places.values(), "mnt"):
        outcome = user.dynamicfs("mount", disk, user.root, check=False, XDG_RUNTIME_DIR=str(place))
        expect_refusal(outcome, EXIT_NO_PERMISSION, place, "unset XDG_RUNTIME_DIR")
        expect(not user.is_mounted(), f"it is mounted with {place}")
    expect_equal(os.listdir(places["open"]) + os.listdir(places["somebodys"]), [], "what was left there")
    user.dynamicfs("mount", disk, user.root)
    bench.workspace.note_process(user.daemon_pid(), below=bench.scratch)
    for asked in ("umount", "status", "sync"):
        outcome = user.dynamicfs(asked, user.root, check=False, XDG_RUNTIME_DIR=str(places["roots"]))
        expect_refusal(outcome, EXIT_NO_PERMISSION, places["roots"], "unset XDG_RUNTIME_DIR")
    expect(user.is_mounted(), "it is not mounted any more")
    user.dynamicfs("umount", user.root)


# Walks a file as cp does, and says what it took for data.
_WALK = '''
import mmap, os, sys
def walk(fd):
    found, at, end = [], 0, os.fstat(fd).st_size
    while at < end:
        try:
            begin = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            assert error.errno == 6, error
            break
        at = os.lseek(fd, begin, os.SEEK_HOLE)
        assert at > begin
        found.append((begin, at))
    return found
def covered(fd, *wanted):
    found = walk(fd)
    for begin, end in wanted:
        assert any(a <= begin and end <= b for a, b in found), (begin, end, found)
MIB = 1 << 20
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
if sys.argv[2] == "dirty":
    os.ftruncate(fd, 64 * MIB)
    # The first question of all, when nothing has been handed over.
    os.pwrite(fd, b"d" * 5000, 16 * MIB)
    covered(fd, (16 * MIB, 16 * MIB + 5000))
    memory = mmap.mmap(fd, 64 * MIB)
    memory[32 * MIB : 33 * MIB] = b"m" * MIB
    os.pwrite(fd, b"grown", 80 * MIB)
    covered(fd, (16 * MIB, 16 * MIB + 5000), (32 * MIB, 33 * MIB), (80 * MIB, 80 * MIB + 5))
    os.fsync(fd)
covered(fd, (16 * MIB, 16 * MIB + 5000), (32 * MIB, 33 * MIB), (80 * MIB, 80 * MIB + 5))
'''


@case(
    GROUP,
    "in a user's pool nothing that is dirty is called a hole, though the kernel cannot be asked for it",
    where=OWN_POOLS,
    needs=["root", "fusermount3"],
)
def user_seeks(bench):
    program = _own_namespace(bench)
    user = _User(bench, program)
    # Ours may lie where the user may not look.
    python = shutil.which("python3", path="/usr/bin:/bin")
    if python is None:
        raise Skip("no python3 that user nobody can run")
    disks = [user.home / "a.img", user.home / "b.img"]
    user.dynamicfs("create", "--size", "128M", *disks)
    for state in ("dirty", "clean"):
        user.dynamicfs("mount", disks[0], user.root)
        bench.workspace.note_process(user.daemon_pid(), below=bench.scratch)
        user.run(python, "-c", _WALK, user.root / "file", state)
        metrics = json.loads(user.dynamicfs("status", user.root, "--json").out)["metrics"]
        expect_equal(metrics["fuse_seek_syncs"], 0, "pages that were asked for")
        expect(metrics["fuse_requests_lseek"] > 0, "the daemon was not asked")
        copy = user.home / f"copy-{state}"
        user.run("cp", "--sparse=auto", user.root / "file", copy)
        user.run("cmp", user.root / "file", copy)
        copy.unlink()
        user.dynamicfs("umount", user.root)


@case(
    GROUP,
    "in a pool that a user mounts the files of others are others'",
    where=OWN_POOLS,
    needs=["root", "fusermount3"],
)
def files_of_others(bench):
    program = _own_namespace(bench)
    user = _User(bench, program)
    pool = _pool(bench).mount()
    for name, owner, mode in (("theirs", NOBODY_UID, 0o600), ("roots", 0, 0o600), ("open", 0, 0o644)):
        (pool.root / name).write_text(name)
        (pool.root / name).chmod(mode)
        os.chown(pool.root / name, owner, owner)
    pool.umount()
    disk = pool.disks[0].path
    os.chown(disk, NOBODY_UID, NOBODY_UID)
    user.dynamicfs("mount", disk, user.root)
    bench.workspace.note_process(user.daemon_pid(), below=bench.scratch)
    for name, readable in (("theirs", True), ("roots", False), ("open", True)):
        outcome = user.run("cat", user.root / name, check=False)
        expect_equal(outcome.code == 0, readable, f"{name} can be read")
    expect_equal(
        user.run("stat", "-c", "%u", user.root / "roots").out, "0\n", "the owner that is shown"
    )
    outcome = user.run("touch", user.root / "new", check=False)
    expect("Permission denied" in outcome.err, f"in a root directory of root's: {outcome}")
    user.dynamicfs("umount", user.root)
