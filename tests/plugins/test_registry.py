"""Registries: lazy, with suggestions, explicit about collisions, and calm about broken plugins."""

import shutil
import sys
import textwrap
import warnings
from functools import partial

import pytest

import snrouter
from snrouter.errors import PluginError, SpecError
from snrouter.evaluation.jobs import make_job
from snrouter.evaluation.routes import own_route
from snrouter.evaluation.worker import Worker
from snrouter.plugins import entry_points
from snrouter.plugins.registry import Registry, Row
from snrouter.spec import load

GROUP = "snrouter.solvers"


@pytest.fixture
def add(install, tmp_path, monkeypatch):
    """Installs a package with entry points in the solvers' group, for this test only."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield lambda package, names, version="1.2.3", **modules: install(tmp_path, package, {GROUP: names}, version, **modules)
    for module in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[module], "__file__", "")):
            del sys.modules[module]


registry = partial(Registry, "solver", GROUP, "snrouter.solvers.base:Solver")


def test_an_unknown_name_is_answered_by_the_nearest_and_by_all():
    with pytest.raises(SpecError, match=r"unknown solver type 'huen'; did you mean 'heun'\?; known: .*heun, ode") as caught:
        registry().get("huen")
    assert caught.value.exit_code == 2


def test_nothing_is_imported_before_it_is_asked_for(add):
    add("lazy-plugin", {"lazy": "lazy_plugin:Lazy"}, lazy_plugin="class Lazy: pass")
    solvers = registry()
    assert "lazy" in solvers.names()
    assert solvers.find("lazy").value == "lazy_plugin:Lazy"
    assert "lazy_plugin" not in sys.modules
    assert solvers.get("lazy").__name__ == "Lazy"
    assert solvers.get("lazy") is sys.modules["lazy_plugin"].Lazy


def test_a_built_in_wins_a_collision_with_a_warning_and_a_qualified_name_picks_the_other(add):
    add("a-plugin", {"heun": "a_plugin:Heun", "other": "a_plugin:Heun"}, a_plugin="class Heun: pass")
    solvers = registry()
    with pytest.warns(
        UserWarning, match=r"'heun' is registered by 2 packages; snrouter's is used, write a-plugin:heun for the other"
    ):
        chosen = solvers.get("heun")
    assert chosen is snrouter.Heun
    assert solvers.get("snrouter:heun") is snrouter.Heun
    assert solvers.get("a-plugin:heun") is solvers.get("other") is sys.modules["a_plugin"].Heun
    assert [row.package for row in solvers.rows() if row.name == "heun"] == ["snrouter", "a-plugin"]


def test_of_two_plugins_the_first_in_alphabetical_order_wins_with_a_warning(add):
    add("z-plugin", {"twice": "z_plugin:Z"}, z_plugin="class Z: pass")
    add("b-plugin", {"twice": "b_plugin:B"}, b_plugin="class B: pass")
    solvers = registry()
    with pytest.warns(UserWarning, match="b-plugin's is used, write z-plugin:twice for the other"):
        assert solvers.get("twice").__name__ == "B"
    assert solvers.get("z-plugin:twice").__name__ == "Z"


def test_a_package_that_does_not_register_the_name_is_unknown():
    with pytest.raises(SpecError, match=r"unknown solver type 'elsewhere:heun'; did you mean 'heun'"):
        registry().get("elsewhere:heun")


BROKEN = {
    "raises": ("raises_plugin:Solver", {"raises_plugin": "raise OSError('no CUDA here')"}, "OSError: no CUDA here"),
    "absent": ("absent_plugin:Solver", {}, "ModuleNotFoundError: No module named 'absent_plugin'"),
    "empty": ("empty_plugin:Solver", {"empty_plugin": ""}, "AttributeError: .*no attribute 'Solver'"),
    "leaves": ("leaves_plugin:Solver", {"leaves_plugin": "raise SystemExit(0)"}, "SystemExit: 0"),
    "number": ("number_plugin:Solver", {"number_plugin": "Solver = 3"}, "TypeError: expected a class or function, got int"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_is_a_row_and_an_error_only_when_asked_for(kind, add):
    target, modules, cause = BROKEN[kind]
    add("broken-plugin", {"broken": target}, **modules)
    solvers = registry()
    (row,) = [row for row in solvers.rows() if row.name == "broken"]
    assert (row.kind, row.package, row.version) == ("solver", "broken-plugin", "1.2.3")
    assert row.status.startswith("broken: ")
    assert solvers.get("heun") is snrouter.Heun
    message = f"solver 'broken' of package 'broken-plugin' cannot be imported from '{target}': {cause}; repair or uninstall"
    with pytest.raises(PluginError, match=message) as caught:
        solvers.get("broken")
    assert caught.value.exit_code == 3
    assert isinstance(caught.value, ImportError)


@pytest.mark.parametrize("kind", entry_points.REGISTRIES)
def test_every_built_in_can_be_imported_and_nothing_collides(kind):
    shared = entry_points.REGISTRIES[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what else is installed here
        rows = [row for row in Registry(shared.kind, shared.group, shared.base).rows() if row.package == "snrouter"]
    assert rows == [Row(shared.kind, row.name, "snrouter", row.version, "ok") for row in rows]
    assert len({row.name for row in rows}) == len(rows) > 0


@pytest.fixture
def spec(add, tmp_path, monkeypatch):
    """Loads a spec whose solver is of type `mine`, of a package of the given version and source."""
    text = """
        experts: {only: {type: gaussian, mean: [0], standard_deviation: [1]}}
        route: {type: single, expert: only}
        solver: {type: mine}
        shape: [1]
    """
    (tmp_path / "spec.yaml").write_text(textwrap.dedent(text))

    def make(version, target, **modules):
        add("mine", {"mine": target}, version, **modules)
        monkeypatch.setattr(entry_points, "solvers", registry())
        return load(tmp_path / "spec.yaml")

    return make


def test_another_version_of_a_plugin_is_another_job(spec, tmp_path):
    keys = set()
    for version in ("1.0", "1.0", "2.0"):
        document = spec(version, "snrouter:Heun")
        assert document.packages() == {"mine": version}
        keys.add(make_job(Worker([own_route(document)]), 0, "samples", None, 4).key)
        shutil.rmtree(tmp_path / f"mine-{version}.dist-info")
    assert len(keys) == 2


def test_a_plugin_that_makes_something_else_is_named(spec):
    document = spec("1.0", "mine_plugin:make", mine_plugin="def make(): return 3")
    message = "solver 'mine' of package 'mine' gave int, expected snrouter.solvers.base.Solver; repair or uninstall"
    with pytest.raises(PluginError, match=message) as caught:
        document.solver()
    assert caught.value.exit_code == 3


def test_a_plugin_whose_annotations_do_not_resolve_is_broken_and_says_what_to_do(spec):
    source = "from __future__ import annotations\ndef make(steps: Missing) -> None: ...\n"
    document = spec("1.0", "vague_plugin:make", vague_plugin=source)
    with pytest.raises(
        PluginError, match=r"annotations cannot be resolved .*'Missing' is not defined.*outside TYPE_CHECKING"
    ) as caught:
        document.check()
    assert caught.value.exit_code == 3
