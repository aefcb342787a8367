"""The crash oracle's workloads on names: a history of changes, and files replaced by rename."""

import os
import stat

from oracle import SECTOR_BYTES, claim, identify, sectors
from syscalls import RENAME_EXCHANGE, fsync_path, renameat2
from workload import Workload, list_names, read_file


class Names(Workload):
    """Every kind of change to names, checked as one history: what is there must be the tree after
    some number of operations, and not fewer than were durable.

    An object carries its identity from the moment it is made: in the permission bits, or in the
    text of a symbolic link.
    """

    name = "names"
    needs = ("root",)

    def __init__(self, directory, seed):
        super().__init__(directory, seed)
        self.tree = {}  # path -> (kind, identity, serial); hard links share the serial
        self.serial = 0

    def run(self, here, log, rng, is_ordered):
        os.umask(0)
        for number in range(3000):
            operation = self._choose(rng)
            log.write("operation", *operation)
            self._perform(here, *operation)
            self._replay(operation)
            if rng.random() < 0.05:
                for directory in [here] + [os.path.join(here, path) for path in self._paths("d")]:
                    fsync_path(directory)
                log.write("durable")

    def _paths(self, *kinds):
        return [path for path, (kind, _, _) in self.tree.items() if kind in kinds]

    def _choose(self, rng):
        """A valid operation on the present tree, favouring renames."""
        while True:
            directories = [""] + self._paths("d")
            leaves = self._paths("f", "l")
            new = os.path.join(rng.choice(directories), f"n{rng.randrange(30)}")
            kind = rng.choice(
                (
                    "make",
                    "make",
                    "make directory",
                    "link",
                    "unlink",
                    "rename",
                    "rename",
                    "replace",
                    "exchange",
                    "move directory",
                    "rmdir",
                )
            )
            if (
                kind.startswith("make")
                and new not in self.tree
                and new.count("/") < 4
                and len(self.tree) < 60
            ):
                what = "d" if kind == "make directory" else rng.choice("fl")
                return "make", new, what, rng.randrange(512)
            if (
                kind in ("link", "rename")
                and leaves
                and new not in self.tree
                and new.count("/") < 4
            ):
                source = rng.choice(leaves)
                return kind, source, new
            if kind == "unlink" and leaves:
                return "unlink", rng.choice(leaves)
            if kind in ("replace", "exchange") and len(leaves) >= 2:
                one, two = rng.sample(leaves, 2)
                if self.tree[one][2] != self.tree[two][2]:
                    return "rename" if kind == "replace" else kind, one, two
            if kind == "move directory" and self._paths("d") and new not in self.tree:
                source = rng.choice(self._paths("d"))
                if not (new + "/").startswith(source + "/") and new.count("/") < 3:
                    return "rename", source, new
            if kind == "rmdir" and self._paths("d"):
                path = rng.choice(self._paths("d"))
                if not any(other.startswith(path + "/") for other in self.tree):
                    return "unlink", path

    def _perform(self, here, kind, *arguments):
        at = lambda path: os.path.join(here, path)
        if kind == "make":
            path, what, identity = arguments
            if what == "d":
                os.mkdir(at(path), identity)
            elif what == "f":
                os.mknod(at(path), stat.S_IFREG | identity)
            else:
                os.symlink(f"identity {identity}", at(path))
        elif kind == "unlink":
            (os.rmdir if self.tree[arguments[0]][0] == "d" else os.unlink)(at(arguments[0]))
        elif kind == "link":
            os.link(at(arguments[0]), at(arguments[1]), follow_symlinks=False)
        elif kind == "rename":
            os.rename(at(arguments[0]), at(arguments[1]))
        else:
            renameat2(at(arguments[0]), at(arguments[1]), RENAME_EXCHANGE)

    def _replay(self, operation):
        kind, *arguments = operation
        tree = self.tree
        if kind == "make":
            self.serial += 1
            tree[arguments[0]] = (arguments[1], arguments[2], self.serial)
        elif kind == "unlink":
            del tree[arguments[0]]
        elif kind == "link":
            tree[arguments[1]] = tree[arguments[0]]
        elif kind == "exchange":
            one, two = arguments
            tree[one], tree[two] = tree[two], tree[one]
        else:
            old, new = arguments
            for path in [path for path in tree if path == old or path.startswith(old + "/")]:
                tree[new + path[len(old) :]] = tree.pop(path)

    def _appearance(self):
        """The tree as it can be observed: kind, identity and number of names."""
        names_of = {}
        for _, _, serial in self.tree.values():
            names_of[serial] = names_of.get(serial, 0) + 1
        return {
            path: (kind, identity, 1 if kind == "d" else names_of[serial])
            for path, (kind, identity, serial) in self.tree.items()
        }

    def verify(self, here, events, is_ordered):
        operations = [event[1:] for event in events if event[0] == "operation"]
        durable_count, seen_count = 0, 0
        for event in events:
            seen_count += event[0] == "operation"
            if event[0] == "durable":
                durable_count = seen_count
        observed, observed_tree = self._observe(here)
        closest = None
        for count in range(len(operations) + 1):
            if count > 0:
                self._replay(operations[count - 1])
            if count >= durable_count:
                differing = {item[0] for item in observed.items() ^ self._appearance().items()}
                if closest is None or len(differing) < len(closest[1]):
                    closest = (count, sorted(differing))
                if not differing:
                    break
        if closest[1]:
            count, paths = closest
            last = operations[count - 1] if count else "none"
            yield (
                f"the names fit no moment between operation {durable_count}, durable, and {len(operations)}, the last; "
                f"closest is after {count} ({last}), where these differ: {paths[:6]}"
            )
        self.tree = observed_tree

    def _observe(self, here):
        observed, tree, serials = {}, {}, {}
        pending = [""]
        while pending:
            directory = pending.pop()
            for name in os.listdir(os.path.join(here, directory)):
                path = os.path.join(directory, name)
                info = os.lstat(os.path.join(here, path))
                kind = {stat.S_IFDIR: "d", stat.S_IFREG: "f", stat.S_IFLNK: "l"}.get(
                    stat.S_IFMT(info.st_mode), "?"
                )
                identity = stat.S_IMODE(info.st_mode)
                if kind == "l":
                    identity = int(os.readlink(os.path.join(here, path)).split()[1])
                if kind == "d":
                    pending.append(path)
                if info.st_ino not in serials:
                    self.serial += 1
                    serials[info.st_ino] = self.serial
                observed[path] = (kind, identity, 1 if kind == "d" else info.st_nlink)
                tree[path] = (kind, identity, serials[info.st_ino])
        return observed, tree


class Replace(Workload):
    """Files replaced by rename, the way editors save: always one whole version, never none, never a
    mixture.
    """

    name = "replace"
    slot_count = 8

    def __init__(self, directory, seed):
        super().__init__(directory, seed)
        self.versions = {
            slot: [0] for slot in range(self.slot_count)
        }  # 0: not there; the durable one first

    @staticmethod
    def _count(slot, version):
        """Sectors of a version: 1 to 600, so some replacements grow and some shrink."""
        return 1 + (slot * 7919 + version * 104_729) % 600

    def _content(self, slot, version):
        return sectors(self.seed, slot, 0, self._count(slot, version), version)

    def run(self, here, log, rng, is_ordered):
        version = max(max(states) for states in self.versions.values())
        for _ in range(2000):
            version += 1
            slot = rng.randrange(self.slot_count)
            temporary, final = os.path.join(here, f"slot-{slot}.new"), os.path.join(
                here, f"slot-{slot}"
            )
            log.write("replace", slot, version)
            with open(temporary, "wb") as file:
                file.write(self._content(slot, version))
                if not is_ordered or rng.random() < 0.3:
                    file.flush()
                    os.fsync(file.fileno())
            os.rename(temporary, final)
            if rng.random() < 0.1:
                fsync_path(here)
                log.write("durable")

    def verify(self, here, events, is_ordered):
        for kind, *rest in events:
            if kind == "replace":
                self.versions[rest[0]].append(rest[1])
            elif kind == "durable":
                self.versions = {slot: states[-1:] for slot, states in self.versions.items()}
        listed = list_names(here)
        for slot, states in self.versions.items():
            temporary = os.path.join(here, f"slot-{slot}.new")
            if f"slot-{slot}.new" in listed:
                yield from self._check_temporary(slot, read_file(temporary))
            if f"slot-{slot}" not in listed:
                if 0 not in states:
                    yield f"slot-{slot} is missing; version {states[0]} was there and durable"
                self.versions[slot] = [0]
                continue
            data = read_file(os.path.join(here, f"slot-{slot}"))
            found = next(
                (version for version in states if version and data == self._content(slot, version)),
                None,
            )
            if found is None:
                yield (
                    f"slot-{slot} is none of the versions {states[-6:]}: {len(data)} bytes, "
                    f"begins with {claim(data[:SECTOR_BYTES])}"
                )
            self.versions[slot] = [found or states[-1]]

    def _check_temporary(self, slot, data):
        """Not yet renamed, never synced: short or zeros is legal, another file's bytes are not."""
        for at in range(0, len(data), SECTOR_BYTES):
            piece = data[at : at + SECTOR_BYTES]
            identity = identify(piece)
            is_own = identity is not None and identity[:3] == (self.seed, slot, at // SECTOR_BYTES)
            if any(piece) and not is_own and len(piece) == SECTOR_BYTES:
                yield f"slot-{slot}.new holds {claim(piece)} at sector {at // SECTOR_BYTES}"
                return
