"""Whether the kernel offers FUSE over io_uring (Linux 6.14): a parameter of its module says so, off by default."""

from contextlib import contextmanager
from pathlib import Path

PARAMETER = Path("/sys/module/fuse/parameters/enable_uring")


def can_be_offered():
    """True if it is, or we may see to that."""
    try:
        was = PARAMETER.read_text()
        PARAMETER.write_text(was)
        return True
    except OSError:
        return False


@contextmanager
def offered(is_offered=True):
    """It is, or is not, and is as it was afterwards. Only mounts look at it, and only when they are made."""
    was = PARAMETER.read_text()
    PARAMETER.write_text("Y" if is_offered else "N")
    try:
        yield
    finally:
        PARAMETER.write_text(was)


@contextmanager
def offered_if_possible():
    if not can_be_offered():
        yield
        return
    with offered():
        yield
