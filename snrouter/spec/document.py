"""Document: a validated spec that builds the objects it names, with every error told by file, line and key."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from snrouter.errors import SpecError
from snrouter.experts.checkpoints import Loaded, read_for, sha256
from snrouter.gamma import PIPELINE_WORDS, GammaInterval, interval, position
from snrouter.plugins import entry_points as plugins
from snrouter.plugins.registry import BUILTIN, Registry
from snrouter.spec.components import arguments_model, path_parameters
from snrouter.spec.faults import explained
from snrouter.spec.files import Location, Source, dotted
from snrouter.spec.models import AnyComponent, Component, Spec, Tune
from snrouter.spec.tuning import resolved


class Document:
    """A spec with where each of its keys came from; it builds the objects that the spec names.

    Args:
        raw: the merged mapping.
        sources: where each location was written.
    """

    def __init__(self, raw: dict[str, Any], sources: Mapping[Location, Source]) -> None:
        self.sources = sources
        try:
            self.spec = Spec.model_validate(self._with_schedulers(raw, ()))
        except ValidationError as error:
            raise SpecError("\n".join(explained(error, (), Spec, self._where))) from None
        self.bounds: GammaInterval = self.at(("interval",), lambda: interval(tuple(self.spec.interval.model_dump().values())))

    # --- what the spec names -------------------------------------------------------------------------------------

    def expert(self, name: str, loaded: Loaded | None = None) -> Any:
        """Load one expert.

        Args:
            name: in the spec.
            loaded: files read before, which is added to: experts of one file share its network.
        """
        component = self.spec.experts[name]
        given = {"name": name, "reference": partial(self.dataset, "reference"), "loaded": loaded}
        return self._build(plugins.experts, component, ("experts", name), given)

    def policy(self) -> Any:
        """The route's policy, made once: a gate is read from its checkpoint."""
        return self._policy

    @cached_property
    def _policy(self) -> Any:
        given = {"available": tuple(self.spec.experts), "run_seed": self.spec.seed}
        policy = self._build(plugins.policies, self.spec.route, ("route",), given)
        self.at(("route",), lambda: policy.check(self.spec.experts))
        return policy

    def __getstate__(self) -> dict[str, Any]:
        """Without the policy, whose gate may be on a device; another process reads its own."""
        return {name: value for name, value in self.__dict__.items() if name != "_policy"}

    def solver(self) -> Any:
        """The solver."""
        return self._build(plugins.solvers, self.spec.solver, ("solver",))

    def dataset(self, which: Literal["data", "reference"]) -> Any:
        """The data or the reference, or None when the spec gives none."""
        component: Component | None = getattr(self.spec, which)
        return None if component is None else self._build(plugins.datasets, component, (which,))

    def members(self, name: str, images: Any, reference: Any = None) -> Any:
        """Which images the slice of that name holds, bool [N]; medians are those of the reference, or of the images without one.

        Raises:
            DataError: when it holds none, or the images lack what it asks for.
        """
        return self.at(("slices", name), lambda: self.spec.slices[name].members(images, reference))

    def metrics(self) -> list[Any]:
        """The metrics of `evaluate`, in order."""
        return [self._build(plugins.metrics, c, ("evaluate", i)) for i, c in enumerate(self.spec.evaluate)]

    def switches(self) -> list[float]:
        """The sweep's switches as gammas; none where it compares ends of the interval or single experts only.

        Raises:
            SpecError: when the spec has nothing to sweep.
        """
        sweep = self.spec.sweep
        if sweep is None or not (sweep.switches or sweep.singles or sweep.gamma_min or sweep.gamma_max):
            raise SpecError(f"{self._where(())}: nothing to sweep; add e.g. sweep: {{switches: [{{eta: 0.1}}, {{eta: 0.2}}]}}")
        return self._swept("switches")

    def ends(self) -> list[GammaInterval]:
        """The intervals that the sweep goes over: every lower end with every upper one; the spec's own where there are none.

        Raises:
            SpecError: where a lower end is not below an upper one.
        """
        lows, highs = (self._swept(name) for name in ("gamma_min", "gamma_max"))
        pairs = itertools.product(lows or [self.bounds.gamma_min], highs or [self.bounds.gamma_max])
        return [self.at(("sweep",), partial(interval, pair)) for pair in pairs]

    def _swept(self, name: str) -> list[float]:
        """Positions of `sweep` as gammas."""
        written = getattr(self.spec.sweep, name) if self.spec.sweep is not None else ()
        return [self.at(("sweep", name, i), partial(position, value, self.bounds)) for i, value in enumerate(written)]

    def tuning(self) -> Tune:
        """What `tune` chooses from, experts by name and positions as gammas.

        Raises:
            SpecError: when it names an expert that is not there, or a position where none can be.
        """
        return resolved(self.spec.tune, self.spec.experts, self.bounds, self.at)

    def check(self) -> None:
        """Check every component's arguments without loading weights or data.

        Raises:
            SpecError: with every fault found, a line each.
            PluginError: when a plugin that the spec needs cannot be imported.
        """
        faults = []
        for registry, component, location in self._components():
            try:
                self._arguments(registry, component, location)
            except SpecError as error:
                faults.append(str(error))
        if faults:
            raise SpecError("\n".join(faults))
        self.policy(), self.solver(), self.metrics(), self.tuning()
        if self.spec.sweep is not None:
            self.switches(), self.ends()

    def with_route(self, route: Mapping[str, Any]) -> Document:
        """The same spec with another route, e.g. `{"type": "single", "expert": "quality"}`."""
        return self.with_parts(route=dict(route))

    def with_parts(self, **parts: Any) -> Document:
        """The same spec with other values of some keys, e.g. `evaluate=[]`."""
        return Document(self.dump() | parts, {place: at for place, at in self.sources.items() if not {*place[:1]} & {*parts}})

    def dump(self) -> dict[str, Any]:
        """The spec as plain data, defaults written out and paths made absolute, ready to be run again."""
        raw = self.spec.model_dump(mode="json", exclude_none=True)
        raw["train"] = {name: recipe.dump() for name, recipe in self.spec.train.items()}
        for registry, component, location in self._components():
            for name in path_parameters(registry.get(component.name)):
                if name in component.arguments:
                    holder: Any = raw
                    for step in location:
                        holder = holder[step]
                    holder[name] = str(self._resolve(component.arguments[name], (*location, name)))
        return raw

    def files(self) -> set[Path]:
        """The files that the spec was read from."""
        return {(source.folder / source.file).resolve() for source in self.sources.values() if source.file != "--set"}

    def packages(self) -> dict[str, str]:
        """Packages other than this one that the spec's components come from, with their versions."""
        origins = {registry.origin(component.name) for registry, component, _ in self._components()}
        return {package: version for package, version in sorted(origins) if package != BUILTIN}

    def identity(self, registry: Registry, component: AnyComponent, location: Location) -> dict[str, Any]:
        """A component as plain data that names files, cards beside them and folders by the hash of their content, not by path."""
        arguments: dict[str, Any] = {
            key: position(value) if _pipelines_word(value) in PIPELINE_WORDS else value
            for key, value in component.arguments.items()
        }
        for name in path_parameters(registry.get(component.name)):
            if name in arguments:
                path = self._resolve(arguments[name], (*location, name))
                arguments[name] = _content(path) or str(path)
        return {component.key: component.name, **arguments}

    def weights_sha256(self, name: str) -> str | None:
        """Hash of the file that an expert is read from, of all where they are several; None where it is read from none."""
        target, arguments = self.expert_arguments(name)
        paths = [arguments[key] for key in path_parameters(target) if arguments.get(key) is not None]
        hashes = [line for path in paths for line in (_content(path) if path.is_dir() else [sha256(path)])]
        if len(hashes) > 1:
            return hashlib.sha256("\n".join(hashes).encode()).hexdigest()
        return hashes[0] if hashes else None

    def expert_arguments(self, name: str) -> tuple[Any, dict[str, Any]]:
        """What one expert's plugin registered, and the checked arguments it would be called with; nothing is loaded."""
        component = self.spec.experts[name]
        return plugins.experts.get(component.name), self._arguments(plugins.experts, component, ("experts", name))

    def takes_reference(self, name: str) -> bool:
        """Whether an expert may be made from the spec's reference, as a prior of it is."""
        return "reference" in inspect.signature(plugins.experts.get(self.spec.experts[name].name)).parameters

    def schedulers(self) -> list[Path]:
        """Schedulers through which its positions are read, in the order they are written."""
        found: dict[Path, None] = {}

        def collect(value: Any) -> None:
            if _pipelines_word(value):
                found[Path(value["scheduler"])] = None
            elif isinstance(value, (Mapping, list, tuple)):
                for part in value.values() if isinstance(value, Mapping) else value:
                    collect(part)

        collect(self.spec.model_dump())
        return list(found)

    # --- inside --------------------------------------------------------------------------------------------------

    def _with_schedulers(self, value: Any, location: Location) -> Any:
        """The raw spec with the path of every scheduler beside a pipeline's word made absolute."""
        if _pipelines_word(value):
            return {**value, "scheduler": str(self._resolve(value["scheduler"], (*location, "scheduler")))}
        if isinstance(value, dict):
            return {key: self._with_schedulers(part, (*location, key)) for key, part in value.items()}
        if isinstance(value, list):
            return [self._with_schedulers(part, (*location, i)) for i, part in enumerate(value)]
        return value

    def _components(self) -> Iterator[tuple[Registry, AnyComponent, Location]]:
        spec = self.spec
        for name, expert in spec.experts.items():
            yield plugins.experts, expert, ("experts", name)
        yield plugins.policies, spec.route, ("route",)
        yield plugins.solvers, spec.solver, ("solver",)
        if spec.data is not None:
            yield plugins.datasets, spec.data, ("data",)
        if spec.reference is not None:
            yield plugins.datasets, spec.reference, ("reference",)
        for i, metric in enumerate(spec.evaluate):
            yield plugins.metrics, metric, ("evaluate", i)

    def _where(self, location: Location) -> str:
        for place, source in self.sources.items():
            if location and place[: len(location)] == location and source.file == "--set":
                return str(source)  # what stands here was changed on the command line
        for end in range(len(location), -1, -1):
            if location[:end] in self.sources:
                return str(self.sources[location[:end]])
        return "spec"

    def at(self, location: Location, make: Callable[[], Any]) -> Any:
        """Call, and let a spec error say where it is."""
        try:
            return make()
        except SpecError as error:
            if self._where(()) in str(error):
                raise
            raise type(error)(f"{self._where(location)} {dotted(location)}: {error}") from None

    def _resolve(self, path: str | Path, location: Location) -> Path:
        for end in range(len(location), -1, -1):
            if location[:end] in self.sources:
                return (self.sources[location[:end]].folder / path).resolve()
        return Path(path).resolve()

    def _arguments(self, registry: Registry, component: AnyComponent, location: Location) -> dict[str, Any]:
        target = self.at((*location, component.key), lambda: registry.get(component.name))
        model = arguments_model(target, component.name, registry.kind)
        try:
            checked = model.model_validate(component.arguments, context={"interval": self.bounds})
        except ValidationError as error:
            raise SpecError("\n".join(explained(error, location, model, self._where))) from None
        values = {name: getattr(checked, name) for name in checked.model_fields_set}
        for name in path_parameters(target):
            if values.get(name) is not None:
                values[name] = self._resolve(values[name], (*location, name))
        return values

    def _build(
        self,
        registry: Registry,
        component: AnyComponent,
        location: Location,
        given: Mapping[str, Any] | None = None,
    ) -> Any:
        values = self._arguments(registry, component, location)
        target = registry.get(component.name)
        accepted = inspect.signature(target).parameters
        extra = {name: value for name, value in (given or {}).items() if name in accepted}
        return registry.checked(component.name, self.at(location, lambda: target(**values, **extra)))


def _pipelines_word(value: Any) -> str | None:
    """The word of a part that is read through a scheduler: a position in a pipeline's words, or the `steps` of its nodes."""
    if not isinstance(value, Mapping) or len(value) != 2 or not isinstance(value.get("scheduler"), str):
        return None
    return next((word for word in (*PIPELINE_WORDS, "steps") if word in value), None)


def _content(path: Path) -> list[str]:
    """Hashes of a file and of what it is read with, or of the names and content of a folder's files but for hidden ones."""
    if not path.is_dir():
        return [sha256(file) for file in read_for(path)]
    lines: list[str] = []
    seen: dict[Path, str] = {}
    for folder, folders, files in os.walk(path, followlinks=True):
        here = Path(folder)
        name, real = here.relative_to(path), here.resolve()
        if real in seen:
            lines.append(f"{name.as_posix()} is {seen[real]}")  # links may lead to a folder twice, or in a circle
            folders.clear()
            continue
        seen[real] = name.as_posix()
        folders[:] = sorted(part for part in folders if not part.startswith("."))
        kept = (here / file for file in files if not file.startswith("."))
        lines += [f"{(name / file.name).as_posix()} {sha256(file)}" for file in kept if file.is_file()]
    return sorted(lines)
