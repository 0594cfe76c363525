"""Cells of a study: each a model with a seed, on its way from the spec through what is trained for it to what is evaluated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from snrouter.errors import SpecError, suggestion
from snrouter.evaluation.shards import environment_identity, fingerprint
from snrouter.metrics.base import RouteMetric
from snrouter.plugins import entry_points as plugins
from snrouter.spec import Document
from snrouter.spec.files import put
from snrouter.spec.models import AnyComponent, StudyModel
from snrouter.study.tasks import Evaluate, Find, Train

TUNE = "tune"
"""What is to be done of a model whose route is to be found, after all its recipes."""

UNUSED = ("study", "train", "sweep", "tune")
"""Keys that a cell's own spec does without."""


class Identities:
    """Components by the content of the files they name, each read once.

    A document keeps where its keys were written, so that relative paths are read alike whichever cell asks.
    """

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}

    def of(self, document: Document, *keys: str) -> dict[str, Any]:
        """The components under these keys of a spec."""
        spec, found = document.spec, dict[str, Any]()
        for key in keys:
            part = getattr(spec, key)
            if isinstance(part, Mapping):
                found[key] = {name: self._one(document, key, one, (key, name)) for name, one in part.items()}
            elif isinstance(part, tuple):
                found[key] = [self._one(document, key, one, (key, i)) for i, one in enumerate(part)]
            elif part is not None:
                found[key] = self._one(document, key, part, (key,))
        return found

    def _one(self, document: Document, key: str, component: AnyComponent, location: tuple[str | int, ...]) -> dict[str, Any]:
        written = json.dumps([key, component.model_dump(mode="json")], sort_keys=True)
        if written not in self._known:
            self._known[written] = document.identity(_REGISTRIES[key], component, location)
        found: dict[str, Any] = self._known[written]
        return found


_REGISTRIES = {
    "experts": plugins.experts,
    "route": plugins.policies,
    "solver": plugins.solvers,
    "data": plugins.datasets,
    "reference": plugins.datasets,
    "evaluate": plugins.metrics,
}


class Cell:
    """One model with one seed.

    Args:
        name: of the model.
        model: what the study says of it.
        document: the spec with the model's changes and the seed.
        out: the study's folder.
        limit: at most this many images and samples.
        identities: of components, shared by all cells.

    Attributes:
        to_do: recipes, and then perhaps the search for a route, that are still to be done.
        steps: of what was trained, by recipe.
        seconds: that trainings took, each counted to every cell that uses it.
        error: what went wrong, if anything did.
    """

    def __init__(
        self, name: str, model: StudyModel, document: Document, out: Path, limit: int | None, identities: Identities
    ) -> None:
        self.name = name
        self.model = model
        self.document = document
        self.out = out
        self.limit = limit
        self.to_do = [*model.recipes, *([TUNE] if model.tune else [])]
        self.steps: dict[str, Any] = {}
        self.seconds = 0.0
        self.error: str | None = None
        self._identities = identities

    @property
    def seed(self) -> int:
        """The cell's."""
        return self.document.spec.seed

    @property
    def folder(self) -> Path:
        """Of its run."""
        return self.out / "cells" / self.name / f"seed{self.seed}"

    @property
    def has_route_metrics(self) -> bool:
        """Whether something is to be measured with nothing else at work."""
        return any(isinstance(metric, RouteMetric) for metric in self.document.metrics())

    def next_training(self) -> Train | Find:
        """The first of what is to be done."""
        recipe = self.to_do[0]
        spec, told = self.document.spec, self._identities.of(self.document, "data", "reference")
        depends = told | {"interval": list(self.document.bounds), "seed": self.seed, "versions": _versions()}
        parts = self.document.dump().get("slices") or {}
        if recipe == TUNE:
            depends |= self._identities.of(self.document, "experts", "route", "solver", "evaluate")
            kept = ("tune", "sweep", "batch_size", "precision", "condition", "final", "slices")
            depends |= {key: value for key, value in self.document.dump().items() if key in kept} | {"limit": self.limit}
        else:
            depends |= {"recipe": spec.train[recipe].dump(), "condition": spec.condition}
            experts = spec.train[recipe].dump().get("experts")
            if isinstance(experts, Mapping):  # a mixture's, each with the slice it is warmed on
                depends["slices"] = {name: parts.get(name) for name in experts.values() if name is not None}
            if spec.train[recipe].type == "gate":
                depends |= self._identities.of(self.document, "experts")
        key = fingerprint(depends)
        folder, what = self.out / "trained" / f"{recipe}-seed{self.seed}-{key[:8]}", f"{self.name}, seed {self.seed}: {recipe}"
        if recipe == TUNE:
            return Find(what, self.document.with_parts(study=None), folder, key, self.limit)
        return Train(what, self.document.with_parts(study=None), folder, key, recipe, self.out / "shared")

    def advance(self) -> None:
        """Take up what the first of what was to be done has made; nothing, where it failed."""
        if self.error is not None:
            return
        task = self.next_training()
        told = task.made()
        assert told is not None
        made, recipe = told["made"], self.to_do.pop(0)
        self.steps[recipe] = made["steps"]
        self.seconds += told["seconds"]
        parts: dict[str, Any] = {key: made[key] for key in ("experts", "route", "interval") if made.get(key)}
        if recipe != TUNE and len(self.model.recipes) > 1 and parts.get("route", {"type": "single"})["type"] == "single":
            # one of several experts, for a gate that comes after it or the spec's own route
            parts = {"experts": self.document.dump()["experts"] | parts.get("experts", {})}
        self.document = self.document.with_parts(**parts)

    def evaluation(self, *, alone: bool = False) -> Evaluate:
        """Of what was trained, and of what needs no training."""
        document = Document({key: value for key, value in self.document.dump().items() if key not in UNUSED}, self.document.sources)
        spec = document.spec
        depends = self._identities.of(document, "experts", "route", "solver", "data", "reference", "evaluate")
        depends |= environment_identity(spec.seed, spec.batch_size, spec.precision)
        depends |= {"interval": list(document.bounds), "limit": self.limit, "alone": alone, "spec": document.dump()}
        what = f"{self.name}, seed {self.seed}: {'alone' if alone else 'evaluation'}"
        return Evaluate(what, document, self.folder, fingerprint(depends), self.limit, alone)


def cells_of(document: Document, out: Path, limit: int | None) -> list[Cell]:
    """Every cell, in the order of the spec, seed after seed.

    Raises:
        SpecError: when the spec has no study, or a model cannot be what it says.
    """
    study = document.spec.study
    if study is None:
        raise SpecError("nothing to study; add study: {models: {a: {train: RECIPE}, b: {}}}, or try snrouter study digits-study")
    if not document.spec.evaluate:
        raise SpecError("nothing to evaluate; add e.g. evaluate: [{metric: bpd, estimator: vlb}]")
    out, identities, cells = out.resolve(), Identities(), []
    for name, model in study.models.items():
        for seed in study.seeds:
            changed = document.at(("study", "models", name), partial(_changed, document, name, model, seed))
            cells.append(Cell(name, model, changed, out, limit, identities))
    return cells


def _changed(document: Document, name: str, model: StudyModel, seed: int) -> Document:
    """The spec with a model's own keys and a seed."""
    raw, sources = document.dump(), dict(document.sources)
    raw["seed"] = seed
    place = ("study", "models", name, "set")
    written = next(sources[place[:end]] for end in range(len(place), -1, -1) if place[:end] in sources)
    for path, value in model.set.items():
        put(raw, sources, path, value, written)
    changed = Document(raw, sources)
    changed.check()
    _check_alike(document.dump() | {"seed": seed}, changed.dump())
    for recipe in model.recipes:
        if recipe not in changed.spec.train:
            there = ", ".join(changed.spec.train) or "none"
            raise SpecError(f"train: no recipe {recipe!r}{suggestion(recipe, changed.spec.train)}; there are {there}")
    return changed


def _check_alike(common: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Numbers of cells are set beside each other only where they are of the same images, under the cell's own seed."""
    changed = [key for key in ("seed", "study", "data", "reference") if own.get(key) != common.get(key)]
    parts, own_parts = common.get("slices") or {}, own.get("slices") or {}
    changed += [f"slices.{name}" for name, part in parts.items() if own_parts.get(name, part) != part]
    if changed:
        raise SpecError(f"set: got {changed[0]}, which all models of a study have in common; change it in the spec itself")


def _versions() -> list[str]:
    return [f"{name} {version(name)}" for name in ("snrouter", "torch", "lightning")]
