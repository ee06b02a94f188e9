"""Locks on files of this machine, which last as long as a descriptor is open, in any process that inherited it.

filelock's FileLock opens the file itself and to write, which other users of the machine may not.
"""

import fcntl
import os


def lock_or_close(descriptor: int) -> int | None:
    """Lock an open file and return its descriptor; where another one holds the lock, close it and return None."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
