"""What a file may hold after a crash, and content that says by itself where it belongs.

Files of the oracle consist of sectors of 512 bytes. Each names its session, file, place and
version, carries a crc, and is filled with bytes that follow from these, so a sector is either zeros
or exactly one version of one place of one file; anything else is foreign. Half a kibibyte is less
than the block of the file system: writes of single sectors exercise the merging of old and new
inside a block.
"""

import hashlib
import struct
import zlib

SECTOR_BYTES = 512
ZEROS = bytes(SECTOR_BYTES)

# What a crash may tear is bounded: a direct write of at most this size inside one aligned MiB
# reaches the file system as one request.
ATOMIC_WRITE_SECTORS = 128 * 1024 // SECTOR_BYTES
_WINDOW_SECTORS = (1 << 20) // SECTOR_BYTES

_MAGIC = b"DFSo"
_IDENTITY = struct.Struct("<QQQQ")
_HEADER_BYTES = 8 + _IDENTITY.size
_FILL_BYTES = 59
_FILL_COUNT = (SECTOR_BYTES - _HEADER_BYTES) // _FILL_BYTES
_SESSION_MASK = (1 << 64) - 1


def sector(session, file_id, index, version):
    """The 512 bytes of one version of one place."""
    identity = _IDENTITY.pack(session & _SESSION_MASK, file_id, index, version)
    fill = hashlib.blake2b(identity, digest_size=_FILL_BYTES).digest() * _FILL_COUNT
    body = (identity + fill).ljust(SECTOR_BYTES - 8, b"\0")
    return _MAGIC + struct.pack("<I", zlib.crc32(body)) + body


def sectors(session, file_id, first, count, version):
    return b"".join(
        sector(session, file_id, index, version) for index in range(first, first + count)
    )


def identify(data):
    """(session, file id, index, version) that a sector claims, or None if it is not one of ours."""
    if data[:4] != _MAGIC or len(data) != SECTOR_BYTES:
        return None
    if struct.unpack_from("<I", data, 4)[0] != zlib.crc32(data[8:]):
        return None
    return _IDENTITY.unpack_from(data, 8)


def claim(data):
    """Words for a message: what this sector is instead of what it should be."""
    if not any(data):
        return "zeros"
    identity = identify(data)
    if identity is None:
        return f"bytes that were never written ({data[:16].hex()}...)"
    return "session {:x} file {} sector {} version {}".format(*identity)


class FileModel:
    """All states that one file may be in, kept up to date while operations are begun and made
    durable.

    Versions number the operations on the file. For every sector the list of its possible states is
    kept, the durable one first and then everything begun since; a crash may leave any of them.
    Entries are (version, is_data); data of version v or zeros since version v.
    """

    def __init__(self, session, file_id):
        self.session = session
        self.file_id = file_id
        self.version = 0
        self._states = {}
        self._unsettled = set()
        self._sizes = [(0, 0)]
        self._clearings = []  # (version, first, end): truncations and holes not yet durable
        self._direct_writes = []  # (version, first, end): requests that must not be torn

    @property
    def size_sectors(self):
        """The size as a live reader sees it, in sectors."""
        return self._sizes[-1][1]

    def write(self, first, count, is_direct=False):
        """A write is about to begin; returns the version its sectors must carry."""
        self.version += 1
        for index in range(first, first + count):
            self._add_state(index, True)
        if first + count > self.size_sectors:
            self._sizes.append((self.version, first + count))
        same_window = first // _WINDOW_SECTORS == (first + count - 1) // _WINDOW_SECTORS
        if is_direct and count <= ATOMIC_WRITE_SECTORS and same_window:
            self._direct_writes.append((self.version, first, first + count))
        return self.version

    def clear(self, first, end):
        """A hole or a range of zeros is about to be made; the size stays."""
        self.version += 1
        self._clear(first, end)

    def truncate(self, size_sectors):
        self.version += 1
        self._clear(size_sectors, max(self._states, default=0) + 1)
        self._sizes.append((self.version, size_sectors))

    def _clear(self, first, end):
        for index in [index for index in self._states if first <= index < end]:
            self._add_state(index, False)
        self._clearings.append((self.version, first, end))
        self._direct_writes = [
            write for write in self._direct_writes if write[2] <= first or write[1] >= end
        ]

    def _add_state(self, index, is_data):
        self._states.setdefault(index, [(0, False)]).append((self.version, is_data))
        self._unsettled.add(index)

    def settle(self, version, first=None, end=None):
        """Everything up to `version` is durable; with a range only what lies in it, so the file
        reaches its end.
        """
        everything = first is None
        chosen = [index for index in self._unsettled if everything or first <= index < end]
        for index in chosen:
            states = self._states[index] = _since(self._states[index], version)
            if len(states) == 1:
                self._unsettled.discard(index)
        if not everything:
            self._sizes = [
                (one, max(size, end) if one <= version else size) for one, size in self._sizes
            ]
        else:
            self._sizes = _since(self._sizes, version)
            self._clearings = [one for one in self._clearings if one[0] > version]
            self._direct_writes = [one for one in self._direct_writes if one[0] > version]

    def check(self, data, is_ordered):
        """Lines that say what in `data`, the whole file after a crash, cannot be. Empty when all is
        legal.

        `is_ordered`: the file system promises that what survives is a prefix of what it was handed.
        """
        sizes = [size for _, size in self._sizes]
        problems = []
        if not min(sizes) <= len(data) / SECTOR_BYTES <= max(sizes):
            problems.append(
                f"size {len(data)} bytes, {min(sizes) * SECTOR_BYTES} to {max(sizes) * SECTOR_BYTES} are legal"
            )
        visible = []
        for index in range(-(-len(data) // SECTOR_BYTES)):
            version = self._visible_version(
                index, data[index * SECTOR_BYTES : (index + 1) * SECTOR_BYTES]
            )
            if version is None:
                problems.append(self._describe_wrong(index, data))
            visible.append(version or 0)
        if is_ordered and not problems:
            problems = self._check_order(visible)
        return problems

    def _visible_version(self, index, piece):
        """The version that a sector shows, 0 for zeros; None if it may not show that."""
        states = self._states.get(index, [(0, False)])
        if piece == ZEROS[: len(piece)]:
            return 0 if any(not is_data for _, is_data in states) else None
        for version, is_data in reversed(states):
            if (
                is_data
                and sector(self.session, self.file_id, index, version)[: len(piece)] == piece
            ):
                return version
        return None

    def _describe_wrong(self, index, data):
        states = self._states.get(index, [(0, False)])
        legal = [f"version {version}" if is_data else "zeros" for version, is_data in states]
        found = claim(data[index * SECTOR_BYTES : (index + 1) * SECTOR_BYTES])
        return f"sector {index} holds {found}; file {self.file_id} may hold {' or '.join(legal[-6:])} there"

    def _check_order(self, visible):
        newest = max(visible, default=0)
        problems = []
        for version, first, end in self._clearings:
            if version < newest:
                problems += [
                    f"sector {index} shows version {visible[index]}, from before it was cut off or punched out by "
                    f"operation {version}, while version {newest} is there"
                    for index in range(first, min(end, len(visible)))
                    if 0 < visible[index] < version
                ]
        for version, first, end in self._direct_writes:
            shown = [
                index < len(visible) and visible[index] >= version for index in range(first, end)
            ]
            if any(shown) and not all(shown):
                problems.append(
                    f"direct write {version} of sectors {first} to {end - 1} is torn: "
                    f"{shown.count(True)} of {len(shown)} sectors are there"
                )
        return problems

    def rebase(self, data):
        """What was seen after the recovery is the state from now on, and must not be lost again."""
        self._states, self._unsettled = {}, set()
        for index in range(len(data) // SECTOR_BYTES):
            identity = identify(data[index * SECTOR_BYTES : (index + 1) * SECTOR_BYTES])
            if identity:
                self._states[index] = [(identity[3], True)]
        self._sizes = [(self.version, -(-len(data) // SECTOR_BYTES))]
        self._clearings, self._direct_writes = [], []


def _since(entries, version):
    """Drops what came before the last entry that is at most `version`."""
    last = max((at for at, entry in enumerate(entries) if entry[0] <= version), default=0)
    return entries[last:]


def is_fragment(actual, wanted):
    """Whether `actual` is `wanted` cut short or with zeros where bytes did not arrive."""
    if wanted.startswith(actual):
        return True
    if len(actual) > len(wanted):
        return False
    for at in range(0, len(actual), 4096):
        one, two = actual[at : at + 4096], wanted[at : at + 4096]
        if not two.startswith(one) and any(
            byte != 0 and byte != other for byte, other in zip(one, two)
        ):
            return False
    return True
