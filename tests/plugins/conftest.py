"""Real distributions on a path: what pip leaves of a package, written by hand."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def install() -> Callable[..., None]:
    """Writes a distribution's metadata with its entry points {group: {name: "module:object"}}, and its modules' sources."""

    def write(site: Path, package: str, points: Mapping[str, Mapping[str, str]], version: str = "1.2.3", **modules: str) -> None:
        folder = site / f"{package.replace('-', '_')}-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        lines = [f"[{group}]\n" + "".join(f"{name} = {to}\n" for name, to in names.items()) for group, names in points.items()]
        (folder / "entry_points.txt").write_text("\n".join(lines))
        for module, source in modules.items():
            (site / f"{module}.py").write_text(source)

    return write
