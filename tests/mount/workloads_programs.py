"""The crash oracle's workloads that are real programs: copying, unpacking, building.
"""

import os
import re
import shutil

from material import make_c_project, make_tree
from oracle import is_fragment
from snapshot import differences, portable, snapshot
from syscalls import fsync_path, fsync_tree, walk
from workload import Workload, list_names, nearest, read_file


class Copies(Workload):
    """Copies of one tree: made by a program, then fsynced, later deleted.

    A copy goes through the phases begun, durable, going, gone. Before it is durable, any part of it
    may be there; what is there of a file is a beginning of it or zeros.
    """

    self_test_s = 2

    def __init__(self, directory, seed):
        super().__init__(directory, seed)
        self.phases = {}  # name -> phase
        self.partial = set()  # names that were never durable, whatever happens to them now
        self.source = None

    def prepare(self, materials):
        self.source = os.path.join(materials, "source")
        if not os.path.exists(self.source):
            make_tree(self.source, seed=1, file_count=150, size_max_bytes=200_000)

    def copy(self, target):
        raise NotImplementedError

    def run(self, here, log, rng, is_ordered):
        number = 1 + max((int(name) for name in self.phases), default=0)
        for name, phase in self.phases.items():
            if phase != "durable":
                self._remove(here, log, name)
        kept = [name for name, phase in self.phases.items() if phase == "durable"]
        for _ in range(12):
            name = f"{number:06}"
            log.write("begun", name)
            self.copy(os.path.join(here, name))
            fsync_tree(os.path.join(here, name))
            fsync_path(here)
            log.write("durable", name)
            kept.append(name)
            number += 1
            if len(kept) > 2:
                self._remove(here, log, kept.pop(0))

    def _remove(self, here, log, name):
        log.write("going", name)
        if os.path.exists(os.path.join(here, name)):
            shutil.rmtree(os.path.join(here, name))
        fsync_path(here)
        log.write("gone", name)

    def verify(self, here, events, is_ordered):
        for kind, name in events:
            if kind == "begun":
                self.partial.add(name)
            elif kind == "durable":
                self.partial.discard(name)
            self.phases[name] = kind
        listed = list_names(here)
        yield from (f"{name} was never made" for name in sorted(listed - self.phases.keys()))
        source = portable(snapshot(self.source))
        for name, phase in list(self.phases.items()):
            path = os.path.join(here, name)
            if name not in listed:
                if phase == "durable":
                    yield f"the durable copy {name} is missing"
                del self.phases[name]
                self.partial.discard(name)
            elif phase == "gone":
                yield f"{name} is back, though its deletion was durable"
            elif phase == "durable":
                yield from (
                    f"{name}/{line}"
                    for line in nearest(differences(source, portable(snapshot(path))))
                )
            else:
                yield from (f"{name}/{line}" for line in nearest(self._check_part(path, name)))

    def _check_part(self, path, name):
        """What is there of a copy that is being made or deleted; a durable file being deleted stays
        whole.
        """
        for parent, directories, files in walk(path):
            for entry in directories + files:
                one = os.path.join(parent, entry)
                relative = os.path.relpath(one, path)
                original = os.path.join(self.source, relative)
                if not os.path.lexists(original):
                    yield f"{relative} is nothing that was copied"
                elif os.path.islink(one):
                    if not os.path.islink(original) or os.readlink(one) != os.readlink(original):
                        yield f"{relative} is a link to {os.readlink(one)}"
                elif os.path.isdir(one):
                    if not os.path.isdir(original):
                        yield f"{relative} is a directory"
                elif os.path.islink(original):
                    if os.path.getsize(one):  # tar holds the place of a link with an empty file.
                        yield f"{relative} should be a link"
                else:
                    actual, wanted = read_file(one), read_file(original)
                    if not (
                        is_fragment(actual, wanted) if name in self.partial else actual == wanted
                    ):
                        yield f"{relative} holds bytes that are not its own, or lost durable ones"


class Cp(Copies):
    name = "cp"

    def copy(self, target):
        self.execute("cp", "-a", self.source, target)


class Tar(Copies):
    name = "tar"
    needs = ("tar",)

    def prepare(self, materials):
        super().prepare(materials)
        self.archive = os.path.join(materials, "source.tar")
        if not os.path.exists(self.archive):
            self.execute("tar", "--format=posix", "-cf", self.archive, "-C", self.source, ".")

    def copy(self, target):
        os.mkdir(target)
        self.execute("tar", "-xpf", self.archive, "-C", target)


class Rsync(Workload):
    """A tree brought from version to version by rsync, which replaces each file by rename: every file is
    whole and of the durable version or a later one, from the first durable version on."""

    name = "rsync"
    needs = ("rsync",)
    self_test_s = 2
    version_count = 6
    file_count = 60

    def __init__(self, directory, seed):
        super().__init__(directory, seed)
        self.versions = []  # those that may be there, the durable one first; empty before the first
        self.sources = None

    def prepare(self, materials):
        self.sources = os.path.join(materials, "rsync-versions")
        for version in range(self.version_count):
            root = os.path.join(self.sources, str(version))
            if not os.path.exists(root):
                os.makedirs(self.sources, exist_ok=True)
                paths = make_tree(root, seed=2, file_count=self.file_count, size_max_bytes=150_000)
                for number, path in enumerate(paths):
                    with open(path, "ab") as file:  # Each version has its own end, size and time.
                        file.write(
                            f"version {version} ".encode()
                            * (1 + (number * 31 + version * 17) % 2000)
                        )

    def run(self, here, log, rng, is_ordered):
        for parent, _, files in walk(here):
            for name in files:
                if _rsync_target(name):
                    os.unlink(os.path.join(parent, name))
        version = self.versions[-1] if self.versions else -1
        for _ in range(20):
            version = (version + 1) % self.version_count
            log.write("begun", version)
            # Without a promise about closed files it is rsync's own fsync that makes the rename
            # safe.
            fsync = [] if is_ordered and rng.random() < 0.7 else ["--fsync"]
            self.execute(
                "rsync",
                "-a",
                *fsync,
                os.path.join(self.sources, str(version)) + "/",
                os.path.join(here, "tree"),
            )
            fsync_tree(os.path.join(here, "tree"))
            fsync_path(here)
            log.write("durable", version)

    def verify(self, here, events, is_ordered):
        for kind, version in events:
            if kind == "durable":
                self.versions = [version]
            elif self.versions:
                self.versions.append(version)
        if not self.versions:
            return  # Nothing to compare with: the walk over the whole tree has read it.
        for relative in self._files():
            path = os.path.join(here, "tree", relative)
            if not os.path.exists(path):
                yield f"{relative} is missing; version {self.versions[0]} was durable"
                continue
            actual = read_file(path)
            if not any(
                actual == read_file(os.path.join(self.sources, str(version), relative))
                for version in set(self.versions)
            ):
                yield f"{relative} ({len(actual)} bytes) is none of the versions {self.versions}"
        for parent, _, files in walk(os.path.join(here, "tree")):
            for name in files:
                relative = os.path.relpath(
                    os.path.join(parent, _rsync_target(name) or name), os.path.join(here, "tree")
                )
                if not os.path.lexists(os.path.join(self.sources, "0", relative)):
                    yield f"{relative} is nothing that rsync made"

    def _files(self):
        root = os.path.join(self.sources, "0")
        for parent, _, files in walk(root):
            for name in files:
                if not os.path.islink(os.path.join(parent, name)):
                    yield os.path.relpath(os.path.join(parent, name), root)


def _rsync_target(name):
    """The name that rsync's temporary file `name` is for, or None."""
    match = re.fullmatch(r"\.(.+)\.[A-Za-z0-9]{6}", name)
    return match and match.group(1)


class Ninja(Workload):
    """A project built again and again: its sources, durable, stay; of its products there is nothing
    foreign.
    """

    name = "ninja"
    needs = ("ninja", "cc")

    def __init__(self, directory, seed):
        super().__init__(directory, seed)
        self.is_durable = False
        self.model = None

    def prepare(self, materials):
        self.model = os.path.join(materials, "project")
        if not os.path.exists(self.model):
            make_c_project(self.model)
            self.execute("ninja", "-C", self.model, timeout_s=200)

    def run(self, here, log, rng, is_ordered):
        project = os.path.join(here, "project")
        if not self.is_durable:
            shutil.rmtree(project, ignore_errors=True)
            shutil.copytree(self.model, project, ignore=shutil.ignore_patterns("out", ".ninja*"))
            fsync_tree(project)
            fsync_path(here)
            log.write("durable")
        for _ in range(4):
            shutil.rmtree(os.path.join(project, "out"), ignore_errors=True)
            for name in (".ninja_log", ".ninja_deps"):
                if os.path.exists(os.path.join(project, name)):
                    os.unlink(os.path.join(project, name))
            self.execute("ninja", cwd=project, timeout_s=100)
            self.execute(os.path.join(project, "out", "program"))

    def verify(self, here, events, is_ordered):
        self.is_durable = self.is_durable or ["durable"] in events
        if not self.is_durable:
            return
        project = os.path.join(here, "project")
        sources = ["build.ninja"] + [
            os.path.join("src", name) for name in os.listdir(os.path.join(self.model, "src"))
        ]
        for name in sources:
            path = os.path.join(project, name)
            if not os.path.exists(path) or read_file(path) != read_file(
                os.path.join(self.model, name)
            ):
                yield f"the durable source {name} is missing or changed"
        # The compiler is deterministic, so its products are known; as and ld fill them in any
        # order.
        for name in list_names(os.path.join(project, "out")):
            wanted = os.path.join(self.model, "out", name)
            if os.path.exists(wanted) and not is_fragment(
                read_file(os.path.join(project, "out", name)), read_file(wanted)
            ):
                yield f"out/{name} holds bytes the compiler did not write"
