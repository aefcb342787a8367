"""A file server on a mount: what a client puts through it is there, whoever of server and daemon dies."""

import os
import signal
import socket
import subprocess

from case import OWN_POOLS, case
from harness import Failure, command, expect, expect_equal, wait_until
from material import make_tree
from snapshot import differences, snapshot
from targets import MIB, dynamicfs, image_disk

GROUP = "samba"


class Samba:
    """A server of one share for guests, on the loopback interface, with all its state beside it."""

    def __init__(self, share, outside):
        self.outside = outside
        self.port = free_port()
        self.process = None
        places = "".join(
            f"{name} = {outside}\n"
            for name in (
                "lock directory", "state directory", "cache directory", "pid directory",
                "private dir", "ncalrpc dir",
            )
        )  # fmt: skip
        (outside / "smb.conf").write_text(
            f"[global]\n{places}log file = {outside}/log\n"
            f"smb ports = {self.port}\ninterfaces = lo\nbind interfaces only = yes\n"
            "server role = standalone server\nmap to guest = Bad User\nguest account = root\n"
            "disable spoolss = yes\nload printers = no\nprinting = bsd\ndisable netbios = yes\n"
            f"[share]\npath = {share}\nread only = no\nguest ok = yes\nguest only = yes\n"
            "create mask = 0644\ndirectory mask = 0755\nstrict sync = yes\nsync always = yes\n",
            encoding="ascii",
        )

    def start(self):
        with open(self.outside / "output", "ab") as output:
            self.process = subprocess.Popen(
                ["smbd", "--foreground", "--no-process-group", f"--configfile={self.outside}/smb.conf"],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, process_group=0,
            )  # fmt: skip
        wait_until(self._answers, 30, "an answer of the server", step_s=0.2)
        return self

    def _answers(self):
        if self.process.poll() is not None:
            text = (self.outside / "output").read_text(errors="replace")
            raise Failure(f"smbd ended with {self.process.returncode}: {text[-600:]}")
        return self.client("ls", check=False).code == 0

    def client(self, commands, check=True, **how):
        """Runs commands of smbclient; with a name that nobody has, so as a guest."""
        return command(
            "smbclient", "//127.0.0.1/share", "--port", self.port, "--user=guest%", "--command", commands,
            "--configfile", self.outside / "smb.conf", check=check, timeout_s=60, **how,
        )  # fmt: skip

    def end(self, number=signal.SIGTERM):
        """The server and those that it has made for its clients."""
        for pid in (*_children(self.process.pid), self.process.pid):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass
        self.process.wait(30)


def _children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _contents(root):
    """What a client without links, owners and modes can carry."""
    return {
        name: {key: value for key, value in entry.items() if key in ("type", "sha256")}
        for name, entry in snapshot(root).items()
    }


def _expect_same(before, after, what):
    lines = differences(before, after)
    expect(not lines, f"{what}: {len(lines)} differences, first {lines[:3]}")


@case(
    GROUP,
    "smbclient puts a tree through a server and gets it back, over deaths of the server and of the daemon",
    where=OWN_POOLS,
    needs=["smbd", "smbclient", "root"],
    timeout_s=300,
)
def through_samba(bench):
    disks = [image_disk(bench.scratch / f"disk-{letter}.img", 512 * MIB) for letter in "ab"]
    pool = bench.pool("pool", disks, "replica:2", ["commit_interval=300"]).mount()
    share, outside = pool.root / "share", bench.workspace.directory("smb")
    share.mkdir(mode=0o777)
    source, back = bench.scratch / "tree", bench.scratch / "back"
    make_tree(source, seed=5, file_count=100 if bench.quick else 1500)
    # The client follows links and so has none to carry.
    for parent, folders, files in os.walk(source):
        for path in (os.path.join(parent, name) for name in folders + files):
            if os.path.islink(path):
                os.unlink(path)
    wanted = _contents(source)
    server = Samba(share, outside).start()

    def get(what):
        command("rm", "-rf", back)
        back.mkdir()
        server.client(f"prompt OFF; recurse ON; lcd {back}; mget tree", cwd=back)
        _expect_same(wanted, _contents(back / "tree"), what)

    server.client("prompt OFF; recurse ON; mput tree", cwd=bench.scratch)
    _expect_same(wanted, _contents(share / "tree"), "the tree that went through the server")
    get("the tree that came back")
    server.end(signal.SIGKILL)
    server.start()
    get("the tree after the server was killed")
    large = bench.random_bytes(20 * MIB)
    (bench.scratch / "large").write_bytes(large)
    server.client("mkdir made; cd made; put large", cwd=bench.scratch)
    # It has synced what it has acknowledged (sync always).
    pool.kill()
    told = server.client("ls", check=False)
    expect(told.code != 0, f"the server lists what is gone: {told.out}")
    server.end()
    pool.mount()
    server.start()
    get("the tree after the daemon was killed")
    expect((share / "made" / "large").read_bytes() == large, "what was put before is wrong")
    server.client("cd made; rename large renamed; get renamed", cwd=bench.scratch)
    expect((bench.scratch / "renamed").read_bytes() == large, "what came back of it is wrong")
    server.client("deltree tree; deltree made")
    expect_equal(list(share.iterdir()), [], "what is left when the client has removed all")
    server.end()
    pool.umount()
    dynamicfs("check", "--data", disks[0].path, check=True)
