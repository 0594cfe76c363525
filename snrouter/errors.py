"""Everything that snrouter raises on purpose, and the exit code the command line gives it."""

import difflib
from collections.abc import Iterable


class SnrouterError(Exception):
    """Base of every error raised on purpose: one line that says got, expected, and what to do."""

    exit_code = 1


class SpecError(SnrouterError, ValueError):
    """A spec or an argument is wrong.

    Args:
        message: what is wrong.
        key: the unknown key that a value holds, if that is the fault.
    """

    exit_code = 2

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class SupportError(SpecError):
    """An expert would be asked outside the noise levels it was trained on, or a route has a gap."""


class CheckpointError(SpecError):
    """A checkpoint is missing, damaged, or of the wrong shape."""


class PickleError(SpecError):
    """A pickle asks for what is not read, or is damaged; the message lacks the file's name, which the caller adds."""


class DataError(SpecError):
    """Images are outside their range, off their levels, or absent."""


class NonFiniteError(SnrouterError, ArithmeticError):
    """An expert returned NaN or infinity."""


class SolverError(SnrouterError, RuntimeError):
    """A solver could not finish."""


class OutputError(SnrouterError, OSError):
    """Results could not be written, or what was written cannot be read."""


class DamagedError(OutputError):
    """A file of results does not hold what was written."""


class PluginError(SnrouterError, ImportError):
    """A plugin could not be imported, or registered something unusable."""

    exit_code = 3


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` when a known word is close, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
