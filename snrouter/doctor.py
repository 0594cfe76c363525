"""`doctor`: is this installation sound?

Imports few modules, and tries each package by itself, so that one that breaks others is told of rather than met.
"""

from __future__ import annotations

import os
import platform
import sys
from importlib import import_module, resources
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import torch

from snrouter.errors import SnrouterError
from snrouter.experts.checkpoints import read_card, read_tensors
from snrouter.plugins.entry_points import REGISTRIES

PACKAGES = ("snrouter", "torch", "torchmetrics", "lightning", "torchdiffeq", "scipy", "numpy", "pydantic", "safetensors")

OPTIONAL = {
    "torchvision": ("torchvision", "torch-fidelity"),
    "torch-fidelity": ("torch_fidelity.feature_extractor_inceptionv3", "features: inception"),
    "tensorboard": ("tensorboard", "logger: tensorboard"),
}
"""Packages that may be absent: the module that is used of each, and what needs it."""


class Check(NamedTuple):
    """One thing looked at."""

    name: str
    ok: bool
    detail: str


def doctor() -> list[Check]:
    """Look at this installation: packages, devices, processes, plugins, embedded weights."""
    checks = [Check("python", sys.version_info >= (3, 11), platform.python_version())]
    checks += [_package(name, name, None) for name in PACKAGES]
    checks += [_package(name, *module_and_purpose) for name, module_and_purpose in OPTIONAL.items()]
    return [*checks, _devices(), _processes(), _plugins(), _weights()]


def _package(name: str, module: str, needed_by: str | None) -> Check:
    """Whether a package is there and can be imported; one that nothing or only `needed_by` needs may be absent."""
    try:
        found = version(name)
    except PackageNotFoundError:
        detail = f"absent; only {needed_by} needs it" if needed_by else "not installed; run pip install snrouter again"
        return Check(name, needed_by is not None, detail)
    try:
        import_module(module)
    except Exception as error:
        advice = f"install one that fits torch {torch.__version__}, or uninstall it; others may break beside it"
        reason = " ".join(str(error).split())
        return Check(name, False, f"{found} cannot be imported ({reason})" + (f"; {advice}" if needed_by else ""))
    return Check(name, True, found)


def _devices() -> Check:
    found = f"{os.cpu_count()} cores, {torch.get_num_threads()} torch threads"
    if torch.cuda.is_available():
        found += f", {torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return Check("devices", True, found)


def _processes() -> Check:
    """What several processes can talk through: gloo on CPUs, NCCL on GPUs."""
    there = torch.distributed.is_available()
    gloo, nccl = (there and torch.distributed.is_gloo_available()), (there and torch.distributed.is_nccl_available())
    found = ", ".join(name for name, have in (("gloo", gloo), ("NCCL", nccl)) if have)
    if torch.cuda.device_count() > 1 and not nccl:
        return Check("processes", False, f"{found or 'no backend'}; several GPUs need a torch with NCCL")
    return Check("processes", gloo or nccl, found or "no backend; this torch can run --devices 1 only")


def _plugins() -> Check:
    broken = [row for registry in REGISTRIES.values() for row in registry.rows() if row.status != "ok"]
    count = sum(len(registry.names()) for registry in REGISTRIES.values())
    detail = "; ".join(f"{row.kind} {row.name} of {row.package}: {row.status}" for row in broken)
    return Check("plugins", not broken, detail or f"{count} registered, all import")


def _weights() -> Check:
    folder = Path(str(resources.files("snrouter") / "embedded"))
    names = []
    try:
        for checkpoint in sorted(folder.glob("*.safetensors")):
            read_tensors(checkpoint, read_card(checkpoint))
            names.append(checkpoint.stem)
    except SnrouterError as error:
        return Check("embedded weights", False, str(error))
    return Check("embedded weights", bool(names), ", ".join(names) or "absent; reinstall snrouter")
