"""Files that are whole or absent: written aside, then moved into place."""

from __future__ import annotations

import os
from pathlib import Path

from snrouter.errors import OutputError


def write(path: Path, content: bytes) -> None:
    """Write a file atomically, making its folder.

    Raises:
        OutputError: when it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error}); free space or choose another folder, then run again") from None


def check_writable(folder: Path) -> None:
    """Make a folder, and find out now whether it can be written.

    Raises:
        OutputError: when it cannot.
    """
    probe = folder / ".writable"
    write(probe, b"")
    probe.unlink(missing_ok=True)
