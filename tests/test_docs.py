"""Documentation says what is so: its code runs, its commands and specs are valid, its map is the tree.

A fenced block is checked by its language: Python runs (a page is one program), `sh` runs in README and tour, YAML is a spec or a
part of one that extends `digits`. An HTML comment on the line above a block says otherwise: `not run in tests: why`, `fails with N`.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import typer.main

from snrouter import spec
from snrouter.cli import app
from snrouter.errors import SnrouterError
from snrouter.experts.checkpoints import save_checkpoint
from snrouter.experts.networks.gate import GateNetwork

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
COMMANDS = typer.main.get_command(app).commands
FENCE = re.compile(r"(?:^<!-- (?P<note>[^\n]+) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
TOUR = ("README.md", "docs/tour.md")


class Block(NamedTuple):
    text: str
    note: str
    line: int

    @property
    def runs(self) -> bool:
        return not self.note.startswith("not run")


def blocks(page: Path, language: str) -> Iterator[Block]:
    text = page.read_text()
    for found in FENCE.finditer(text):
        if found["language"] == language:
            yield Block(found["text"], found["note"] or "", text[: found.start("text")].count("\n"))


def pages(language: str) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in PAGES if any(blocks(page, language))]


def commands(text: str) -> list[list[str]]:
    """Arguments of every call of snrouter in a shell block."""
    lines = (shlex.split(line, comments=True) for line in text.replace("\\\n", " ").splitlines())
    return [words[1:] for words in lines if words[:1] == ["snrouter"]]


@pytest.mark.parametrize("page", pages("python"))
def test_python_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "docs"}
    for block in blocks(ROOT / page, "python"):
        if block.runs:
            program = compile("\n" * block.line + block.text, page, "exec", dont_inherit=True)  # errors tell the line on the page
            exec(program, namespace)


@pytest.mark.parametrize("page", TOUR)
def test_tour_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(ROOT / page, "yaml"):
        (tmp_path / block.text.splitlines()[0].removeprefix("# ")).write_text(block.text)
    shell = [block for block in blocks(ROOT / page, "sh") if block.runs]
    assert len(shell) > 2
    for block in shell:
        for arguments in commands(block.text):
            alone = ["--devices", "1"] if any("--devices" in p.opts for p in COMMANDS[arguments[0]].params) else []
            try:
                code = app([*arguments, *alone], standalone_mode=False) or 0
            except SnrouterError as error:
                code = error.exit_code
            assert code == int(block.note.removeprefix("fails with ") or 0), f"{page}: snrouter {shlex.join(arguments)}"


@pytest.mark.parametrize("page", pages("sh"))
def test_commands_exist(page: str) -> None:
    for block in blocks(ROOT / page, "sh"):
        for name, *arguments in commands(block.text):
            if name.startswith("-"):
                continue
            assert name in COMMANDS, f"{page}: snrouter {name}"
            COMMANDS[name].make_context(name, arguments)  # refuses options that it does not have


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_named_in_text_exist(page: Path) -> None:
    for name in re.findall(r"`snrouter ([a-z]+)[^`\n]*`", page.read_text()):
        assert name in COMMANDS, f"`snrouter {name}`"


@pytest.mark.parametrize("page", pages("yaml"))
def test_specs_validate(page: str, tmp_path: Path) -> None:
    scheduler = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
    (tmp_path / "pipeline/scheduler").mkdir(parents=True)
    (tmp_path / "pipeline/scheduler/scheduler_config.json").write_text(json.dumps(scheduler))
    card = {"network": {"type": "gate", "experts": 2}, "gate": {"experts": ["a", "b"]}}
    save_checkpoint(tmp_path / "gate.safetensors", GateNetwork(experts=2), card)
    for number, block in enumerate(blocks(ROOT / page, "yaml")):
        path = tmp_path / f"{number}.yaml"
        whole = re.search(r"^(experts|extends):", block.text, re.MULTILINE)
        path.write_text(block.text if whole else f"extends: digits\n{block.text}")
        spec.load(path).check()


@pytest.mark.parametrize("page", pages("json"))
def test_json_parses(page: str) -> None:
    for block in blocks(ROOT / page, "json"):
        json.loads(block.text)


def modules() -> set[str]:
    """Every module of the package, and every package but the root, as a path."""
    found = {str(path.relative_to(ROOT)) for path in (ROOT / "snrouter").rglob("*.py")}
    return {path.removesuffix("__init__.py") for path in found} - {"snrouter/"}


def test_the_map_is_the_tree() -> None:
    """The map in CONTRIBUTING names each module and folder of the package once, indented by depth, and no other."""
    (tree,) = [block.text for block in blocks(ROOT / "CONTRIBUTING.md", "text") if block.text.startswith("snrouter/\n")]
    named, folders = [], [""]
    for line in tree.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        folders[depth + 1 :] = [folders[depth] + name]
        named.append(folders[depth] + name)
    assert len(named) == len(set(named))
    listed = {path for path in named if path.endswith((".py", "/"))} - {"snrouter/", "snrouter/embedded/"}
    assert listed == modules() - {"snrouter/embedded/"}
    for path in named:
        assert (ROOT / path).exists(), path


def test_the_api_pages_hold_every_module() -> None:
    shown = {name for page in ROOT.glob("docs/api/*.md") for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)}
    dotted = {path.removesuffix(".py").rstrip("/").replace("/", ".") for path in modules()}
    inside = re.compile(
        r"snrouter\.(embedded|__main__|quiet|launched|loggers|files|(cli|evaluation|report|study|testing|training|probe)\..*)"
    )
    packages = {name for name in dotted if any(other.startswith(f"{name}.") for other in dotted)}
    assert shown - packages == {name for name in dotted - packages if not inside.fullmatch(name)}
