"""NFS on a mount, all of it in user space: Ganesha serves, libnfs asks. Handles outlive the daemon.

What a client of NFS holds of a file is the handle that the server has from the kernel, and the kernel from the
daemon. libnfs takes up no connection that it has lost, so handles that are old are tried without it.
"""

import ctypes
import ctypes.util
import errno
import os
import subprocess

from case import OWN_POOLS, case
from cases_samba import free_port
from harness import Failure, Skip, command, expect, expect_equal, wait_until
from syscalls import handle_of, open_by_handle
from targets import MIB, dynamicfs, image_disk

GROUP = "nfs"
# Of a write of NFS 4 the libnfs of Debian 12 can encode less than 4 KiB.
PIECE_BYTES = 2048


class Ganesha:
    """A server of one export for NFS 4, on the loopback interface, with all its state beside it."""

    def __init__(self, export, outside):
        self.outside = outside
        self.port = free_port()
        self.process = None
        (outside / "recovery").mkdir(exist_ok=True)
        (outside / "ganesha.conf").write_text(
            f"NFS_CORE_PARAM {{ Protocols = 4; NFS_Port = {self.port}; Bind_addr = 127.0.0.1;\n"
            "  Enable_NLM = false; Enable_RQUOTA = false; Enable_UDP = false; }\n"
            f'NFSv4 {{ RecoveryBackend = fs; RecoveryRoot = "{outside}/recovery"; Graceless = true;\n'
            "  Only_Numeric_Owners = true; }\n"
            f'EXPORT {{ Export_Id = 1; Path = "{export}"; Pseudo = "/pool"; Access_Type = RW;\n'
            "  Squash = No_Root_Squash; SecType = sys; Protocols = 4; Filesystem_Id = 1.1;\n"
            "  FSAL { Name = VFS; } }\n",
            encoding="ascii",
        )

    def start(self):
        with open(self.outside / "output", "ab") as output:
            self.process = subprocess.Popen(
                ["ganesha.nfsd", "-F", "-f", self.outside / "ganesha.conf", "-L", self.outside / "log",
                 "-p", self.outside / "pid"],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
        wait_until(self._answers, 60, "an answer of the server", step_s=0.2)
        return self

    def _answers(self):
        if self.process.poll() is not None:
            text = (self.outside / "log").read_text(errors="replace")
            raise Failure(f"ganesha.nfsd ended with {self.process.returncode}: {text[-800:]}")
        return command("nfs-ls", self.url(), check=False).code == 0

    def url(self, name=""):
        return f"nfs://127.0.0.1/pool/{name}?version=4&nfsport={self.port}"

    def kill(self):
        self.process.kill()
        self.process.wait(30)


class Client:
    """One connection. It does not outlive the server."""

    def __init__(self, server):
        name = ctypes.util.find_library("nfs")
        if name is None or int(name.rsplit(".", 1)[1]) > 14:
            raise Skip(f"no libnfs as in Debian 12 on this machine, but {name}")
        self._lib = ctypes.CDLL(name)
        self._lib.nfs_init_context.restype = ctypes.c_void_p
        self._lib.nfs_parse_url_dir.restype = ctypes.c_void_p
        self._lib.nfs_get_error.restype = ctypes.c_char_p
        self._context = ctypes.c_void_p(self._lib.nfs_init_context())
        # It takes version and port from there.
        expect(self._lib.nfs_parse_url_dir(self._context, server.url().encode()), "libnfs refuses the URL")
        self.do("mount", "127.0.0.1", "/pool")

    def do(self, name, *words, wanted=0):
        """Calls nfs_`name`; `wanted` is what it should return."""
        call = [word.encode() if isinstance(word, str) else word for word in words]
        got = getattr(self._lib, f"nfs_{name}")(self._context, *call)
        error = self._lib.nfs_get_error(self._context)
        expect(got == wanted, f"nfs_{name}{words[:2]} returned {got}, expected {wanted}: {error}")

    def _open(self, path, flags):
        file = ctypes.c_void_p()
        self.do("open2", path, flags, 0o644, ctypes.byref(file))
        return file

    def write(self, path, data):
        file = self._open(path, os.O_WRONLY | os.O_CREAT)
        for at in range(0, len(data), PIECE_BYTES):
            piece = data[at : at + PIECE_BYTES]
            place, count = ctypes.c_uint64(at), ctypes.c_uint64(len(piece))
            self.do("pwrite", file, place, count, piece, wanted=len(piece))
        self.do("fsync", file)
        self.do("close", file)

    def read(self, path, length_bytes):
        """So many bytes, behind which the file ends."""
        file, data = self._open(path, os.O_RDONLY), b""
        buffer = ctypes.create_string_buffer(PIECE_BYTES)
        for at in range(0, length_bytes, PIECE_BYTES):
            count = min(PIECE_BYTES, length_bytes - at)
            self.do("pread", file, ctypes.c_uint64(at), ctypes.c_uint64(count), buffer, wanted=count)
            data += buffer.raw[:count]
        self.do("pread", file, ctypes.c_uint64(length_bytes), ctypes.c_uint64(10), buffer, wanted=0)
        self.do("close", file)
        return data


@case(
    GROUP,
    "what clients of Ganesha wrote is there, over deaths of the server and of the daemon",
    where=OWN_POOLS,
    needs=["ganesha.nfsd", "nfs-ls", "root"],
    timeout_s=200,
)
def through_ganesha(bench):
    disks = [image_disk(bench.scratch / f"disk-{letter}.img", 512 * MIB) for letter in "ab"]
    pool = bench.pool("pool", disks, "replica:2").mount()
    server = Ganesha(pool.root, bench.workspace.directory("nfs")).start()
    client = Client(server)
    contents = {}

    def put(name):
        contents[name] = bench.random_bytes(bench.rng.randrange(300_000))
        client.write(f"/{name}", contents[name])

    def expect_all(when):
        for name, content in contents.items():
            expect((pool.root / name).read_bytes() == content, f"{name} {when} is wrong in the mount")
            expect(client.read(f"/{name}", len(content)) == content, f"{name} {when} is wrong over NFS")

    for folder in ("a", "a/b"):
        client.do("mkdir", f"/{folder}")
        for number in range(3):
            put(f"{folder}/file-{number}")
    client.do("rename", "/a/file-0", "/a/b/renamed")
    contents["a/b/renamed"] = contents.pop("a/file-0")
    client.do("symlink", "b/renamed", "/a/symbolic")
    client.do("link", "/a/file-1", "/a/hard")
    client.do("chmod", "/a/file-1", 0o600)
    client.do("truncate", "/a/file-2", ctypes.c_uint64(1000))
    contents["a/file-2"] = contents["a/file-2"][:1000]
    expect_all("at once")
    expect_equal(os.readlink(pool.root / "a" / "symbolic"), "b/renamed", "the symbolic link")
    info = os.stat(pool.root / "a" / "hard")
    expect_equal((info.st_nlink, info.st_mode & 0o7777), (2, 0o600), "links and mode of a file")
    dynamicfs("sync", pool.root, check=True)
    for daemon_too in (False, True):
        if daemon_too:
            pool.kill()
        server.kill()
        if daemon_too:
            pool.mount()
        client = Client(server.start())
        folder = "a/daemon" if daemon_too else "a/server"
        client.do("mkdir", f"/{folder}")
        put(f"{folder}/new")
        expect_all(f"after {folder}")
    client.do("unlink", "/a/hard")
    expect_equal(os.stat(pool.root / "a" / "file-1").st_nlink, 1, "links when one was removed")
    server.kill()
    pool.umount()
    dynamicfs("check", "--data", disks[0].path, check=True)


def _outcome(call, *arguments):
    try:
        return call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]


@case(
    GROUP,
    "a handle leads to its file whatever it is called, also after an unmount and a death of the daemon",
    where=OWN_POOLS,
    needs=["root"],
)
def handles(bench):
    disks = [image_disk(bench.scratch / f"disk-{letter}.img", 256 * MIB) for letter in "ab"]
    pool = bench.pool("pool", disks, "replica:2").mount()
    folder = pool.root / "a" / "b" / "c"
    folder.mkdir(parents=True)
    names = ["kept", "renamed", "removed"]
    for name in names:
        (folder / name).write_bytes(f"content of {name}".encode())
    found = {name: handle_of(folder / name) for name in names}
    found["folder"] = handle_of(folder)
    (folder / "renamed").rename(pool.root / "elsewhere")
    (folder / "removed").unlink()
    dynamicfs("sync", pool.root, check=True)
    for again in (pool.remount, lambda: (pool.kill(), pool.mount())):
        again()
        # As the first that anybody asks of this mount.
        for name in ("kept", "renamed"):
            file = open_by_handle(pool.root, found[name], os.O_RDWR)
            expect_equal(os.read(file, 100), f"content of {name}".encode(), f"content of {name}")
            os.pwrite(file, b"C", 0)
            os.fsync(file)
            os.pwrite(file, b"c", 0)
            os.fsync(file)
            os.close(file)
        place = open_by_handle(pool.root, found["folder"], os.O_RDONLY)
        expect_equal(os.listdir(place), ["kept"], "names in the directory with the handle")
        os.close(place)
        expect_equal(
            _outcome(open_by_handle, pool.root, found["removed"], os.O_RDONLY), "ESTALE", "a removed file"
        )
    # Its number is not given to another file.
    for number in range(200):
        (folder / f"new-{number}").touch()
    expect_equal(
        _outcome(open_by_handle, pool.root, found["removed"], os.O_RDONLY), "ESTALE", "a removed file"
    )
    pool.umount()
