"""System calls that Python's os module does not offer, and buffers fit for O_DIRECT."""

import ctypes
import mmap
import os
import platform
import stat
import struct

_libc = ctypes.CDLL(None, use_errno=True)

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

FALLOC_KEEP_SIZE = 0x01
FALLOC_PUNCH_HOLE = 0x02
FALLOC_ZERO_RANGE = 0x10

# _IOR('X', 125, uint32): "shut down" as xfs and ext4 both understand it. With the second flag value
# the log in memory is thrown away too, which is what a power cut does to it.
_IOC_SHUTDOWN = 0x8004587D
_SHUTDOWN_WITHOUT_LOG_FLUSH = 2


def _checked(result, path=None):
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), None if path is None else str(path))
    return result


def renameat2(old, new, flags):
    """Renames `old` to `new` with the RENAME_ flags; raises OSError like os.rename."""
    at_cwd = -100
    _checked(_libc.renameat2(at_cwd, os.fsencode(old), at_cwd, os.fsencode(new), flags), old)


def fallocate(fd, mode, offset_bytes, length_bytes):
    """The system call itself: posix_fallocate of the os module knows neither modes nor holes."""
    _checked(_libc.fallocate(fd, mode, ctypes.c_int64(offset_bytes), ctypes.c_int64(length_bytes)))


def punch_hole(fd, offset_bytes, length_bytes):
    fallocate(fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, offset_bytes, length_bytes)


def zero_range(fd, offset_bytes, length_bytes):
    fallocate(fd, FALLOC_ZERO_RANGE, offset_bytes, length_bytes)


def directory_entries(fd, buffer_bytes=32768):
    """One getdents64 call: a list of (name, cookie), empty at the end of the directory.

    Seeking `fd` to a cookie continues behind that entry; scandir hides the cookies.
    """
    buffer = ctypes.create_string_buffer(buffer_bytes)
    filled_bytes = _checked(_libc.getdents64(fd, buffer, ctypes.c_size_t(buffer_bytes)))
    entries, at = [], 0
    while at < filled_bytes:
        _inode, cookie, record_bytes, _kind = struct.unpack_from("<QqHB", buffer, at)
        name = buffer.raw[at + 19 : at + record_bytes].split(b"\0", 1)[0]
        entries.append((os.fsdecode(name), cookie))
        at += record_bytes
    return entries


def aligned(data):
    """A copy of `data` in page-aligned memory, as O_DIRECT asks for."""
    buffer = mmap.mmap(-1, max(len(data), mmap.PAGESIZE))
    buffer[: len(data)] = data
    return memoryview(buffer)[: len(data)]


def read_direct(path, offset_bytes=0, length_bytes=None, step_bytes=1 << 20):
    """Reads a file around the page cache, so that what comes back was on the disks."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        end = os.fstat(fd).st_size
        if length_bytes is not None:
            end = min(end, offset_bytes + length_bytes)
        buffer = memoryview(mmap.mmap(-1, step_bytes))
        pieces = []
        while offset_bytes < end:
            got_bytes = os.preadv(fd, [buffer], offset_bytes)
            if got_bytes == 0:
                break
            pieces.append(bytes(buffer[: min(got_bytes, end - offset_bytes)]))
            offset_bytes += got_bytes
        return b"".join(pieces)
    finally:
        os.close(fd)


def fsync_path(path):
    """Makes one file or directory durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def walk(path, topdown=True):
    """As os.walk, but a directory that cannot be read is an error, unless it is not there (any more):
    that of a daemon that has just been killed must not pass for an empty one.
    """

    def refuse(error):
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise error

    return os.walk(path, topdown=topdown, onerror=refuse)


def fsync_tree(path):
    """Makes every regular file and directory at and below `path` durable, children first."""
    for parent, _directories, files in walk(path, topdown=False):
        for name in files:
            child = os.path.join(parent, name)
            if stat.S_ISREG(os.lstat(child).st_mode):
                fsync_path(child)
        fsync_path(parent)
    fsync_path(path)


def shut_down(path):
    """Makes the xfs or ext4 that holds `path` fail everything from now on, its unwritten log lost."""
    import fcntl

    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, _IOC_SHUTDOWN, struct.pack("I", _SHUTDOWN_WITHOUT_LOG_FLUSH))
    finally:
        os.close(fd)


# As large as the kernel makes a handle at most.
_HANDLE_BYTES_MAX = 128


def handle_of(path):
    """What a file server remembers of a file: (type, bytes) of name_to_handle_at."""
    at_cwd = -100
    buffer = ctypes.create_string_buffer(8 + _HANDLE_BYTES_MAX)
    struct.pack_into("=Ii", buffer, 0, _HANDLE_BYTES_MAX, 0)
    mount = ctypes.c_int()
    _checked(_libc.name_to_handle_at(at_cwd, os.fsencode(path), buffer, ctypes.byref(mount), 0), path)
    length_bytes, kind = struct.unpack_from("=Ii", buffer)
    return kind, buffer.raw[8 : 8 + length_bytes]


def open_by_handle(mountpoint, handle, flags):
    """A descriptor of the file with this handle, whatever it is called now."""
    kind, identity = handle
    buffer = struct.pack("=Ii", len(identity), kind) + identity
    place = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return _checked(_libc.open_by_handle_at(place, buffer, flags))
    finally:
        os.close(place)


# io_setup, io_getevents and io_submit, which the C library does not have.
_AIO = {"x86_64": (206, 208, 209), "aarch64": (0, 4, 2)}.get(platform.machine())
_IOCB_PWRITE = 1


class AsynchronousWrite:
    """A write that io_submit has begun: whoever wrote does not wait for it, nor does it hold the file's lock."""

    def __init__(self, fd, data, offset_bytes):
        if _AIO is None:
            raise NotImplementedError(platform.machine())
        self._context = ctypes.c_ulong(0)
        _checked(_libc.syscall(_AIO[0], 1, ctypes.byref(self._context)))
        self._memory = mmap.mmap(-1, len(data))
        self._memory[:] = data
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._order = ctypes.create_string_buffer(
            struct.pack("=QIIHhIQQqQII", 0, 0, 0, _IOCB_PWRITE, 0, fd, address, len(data), offset_bytes, 0, 0, 0)
        )
        orders = (ctypes.c_void_p * 1)(ctypes.addressof(self._order))
        _checked(_libc.syscall(_AIO[2], self._context, ctypes.c_long(1), orders))
        self._result = None

    def _look(self, count_min):
        if self._result is None:
            event = ctypes.create_string_buffer(32)
            no_time = struct.pack("=qq", 0, 0)
            timeout = None if count_min else ctypes.create_string_buffer(no_time)
            got = _checked(
                _libc.syscall(
                    _AIO[1], self._context, ctypes.c_long(count_min), ctypes.c_long(1), event, timeout
                )
            )
            if got:
                self._result = struct.unpack_from("=q", event, 16)[0]

    def is_done(self):
        self._look(0)
        return self._result is not None

    def result(self):
        """Waits for its end: the bytes written, or the negative errno."""
        self._look(1)
        return self._result
