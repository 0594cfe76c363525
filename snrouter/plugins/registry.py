"""One lazy registry class; one instance per kind of extension.

A registry reads an entry-point group and imports nothing until a name is asked for. A built-in wins a collision, with a
warning; `package:name` picks the other. A plugin that fails to import is a row in `rows()` and a `PluginError` when asked for.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from snrouter.errors import PluginError, SpecError, suggestion

BUILTIN = "snrouter"


@dataclass(frozen=True)
class Row:
    """What `snrouter list` shows of one registered name."""

    kind: str
    name: str
    package: str
    version: str
    status: str


class Registry:
    """The names of one kind of extension.

    Args:
        kind: what a person calls one, e.g. "expert".
        group: the entry-point group, e.g. "snrouter.experts".
        base: what one is an instance of, e.g. "snrouter.experts.base:Expert"; imported when first needed.
    """

    def __init__(self, kind: str, group: str, base: str) -> None:
        self.kind = kind
        self.group = group
        self.base = base
        self._loaded: dict[str, Any] = {}

    @cached_property
    def _entries(self) -> dict[str, list[EntryPoint]]:
        found: dict[str, list[EntryPoint]] = {}
        for entry in entry_points(group=self.group):
            found.setdefault(entry.name, []).append(entry)
        for entries in found.values():
            entries.sort(key=lambda entry: (_package(entry) != BUILTIN, _package(entry)))
        return found

    def names(self) -> list[str]:
        """Every registered name, in alphabetical order."""
        return sorted(self._entries)

    def find(self, name: str) -> EntryPoint:
        """The entry point of `name` or `package:name`, not imported.

        Raises:
            SpecError: when no package registers it.
        """
        package, _, bare = name.rpartition(":")
        entries = self._entries.get(bare, [])
        if not package and len(entries) > 1:
            others = ", ".join(f"{_package(entry)}:{name}" for entry in entries[1:])
            warnings.warn(
                f"{self.kind} {name!r} is registered by {len(entries)} packages; {_package(entries[0])}'s is used, "
                f"write {others} for the other",
                stacklevel=2,
            )
        for entry in entries:
            if not package or _package(entry) == package:
                return entry
        raise SpecError(f"unknown {self.kind} type {name!r}{suggestion(bare, self.names())}; known: {', '.join(self.names())}")

    def get(self, name: str) -> Any:
        """The registered object: a class or function whose keyword parameters are its spec keys.

        Raises:
            SpecError: when no package registers the name.
            PluginError: when its import fails, or brings something that cannot be called.
        """
        if name not in self._loaded:
            entry = self.find(name)
            try:
                self._loaded[name] = _load(entry)
            except _FAULTS as error:
                raise PluginError(
                    f"{self.kind} {name!r} of package {_package(entry)!r} cannot be imported from {entry.value!r}: "
                    f"{type(error).__name__}: {error}; repair or uninstall the package"
                ) from error
        return self._loaded[name]

    def checked(self, name: str, made: Any) -> Any:
        """What the registered object `name` made, if it is one of this kind.

        Raises:
            PluginError: when it is something else.
        """
        base = EntryPoint(self.kind, self.base, self.group).load()
        if not isinstance(made, base):
            raise PluginError(
                f"{self.kind} {name!r} of package {self.origin(name)[0]!r} gave {type(made).__name__}, "
                f"expected {self.base.replace(':', '.')}; repair or uninstall the package"
            )
        return made

    def origin(self, name: str) -> tuple[str, str]:
        """Package and version that a name comes from, not imported."""
        entry = self.find(name)
        return _package(entry), _version(entry)

    def rows(self) -> list[Row]:
        """One row per registration, with the reason where an import fails."""
        rows = []
        for name, entries in sorted(self._entries.items()):
            for entry in entries:
                try:
                    _load(entry)
                    status = "ok"
                except _FAULTS as error:
                    status = f"broken: {type(error).__name__}: {error}"
                rows.append(Row(self.kind, name, _package(entry), _version(entry), status))
        return rows


_FAULTS = (Exception, SystemExit)  # a module may be a script that exits


def _load(entry: EntryPoint) -> Any:
    target = entry.load()
    if not callable(target):
        raise TypeError(f"expected a class or function, got {type(target).__name__}")
    return target


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "?"


def _version(entry: EntryPoint) -> str:
    return entry.dist.version if entry.dist else "?"
