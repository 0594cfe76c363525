"""Files that are whole or absent: written aside, then moved into place; and files seen as memory."""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from snrouter.errors import OutputError


def write(path: Path, content: bytes) -> None:
    """Write a file atomically, making its folder.

    Raises:
        OutputError: when it cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Another name to write a file under, in a folder that is made; moved into place at the end, or removed after an error.

    Raises:
        OutputError: when it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error}); free space or choose another folder, then run again") from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def remove(path: Path) -> None:
    """Remove a file, if it is there.

    Raises:
        OutputError: when it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be removed ({error}); choose another folder") from None


def remove_leftovers(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder; none may be at work."""
    for path in folder.glob(".*.*.*"):
        if re.fullmatch(r"\..+\.(safetensors|json|yaml|html|png)\.\d+", path.name):
            with suppress(OSError):
                path.unlink()


def view(path: Path) -> memoryview:
    """The bytes of a file without reading them: pages come as they are touched; writing into the view leaves the file as it is.

    Raises:
        OSError: when it cannot be opened.
    """
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))


def check_writable(folder: Path) -> None:
    """Make a folder, and find out now whether it can be written.

    Raises:
        OutputError: when it cannot.
    """
    probe = folder / ".writable"
    write(probe, b"")
    probe.unlink(missing_ok=True)
