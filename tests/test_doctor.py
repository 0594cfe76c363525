"""The doctor tells of a package that breaks others, and does not fall ill of it."""

import subprocess
import sys

import pytest
import torch

from snrouter import doctor


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Installs a package of one module, for this test only."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(name: str, source: str) -> None:
        (tmp_path / f"{name}-0.7.dist-info").mkdir()
        (tmp_path / f"{name}-0.7.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.7\n")
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.setitem(doctor.OPTIONAL, name, (name, "somebody"))

    before = set(sys.modules)
    yield install
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def checks() -> dict[str, doctor.Check]:
    return {check.name: check for check in doctor.doctor()}


def test_this_installation_is_sound_in_what_is_required():
    found = checks()
    assert all(found[name].ok for name in (*doctor.PACKAGES, "python", "devices", "plugins", "embedded weights"))
    assert ("gloo" in found["processes"].detail) == torch.distributed.is_gloo_available()


def test_a_package_that_does_not_import_is_told_with_the_reason_and_what_to_do(package):
    package("nosuchvision", "raise RuntimeError('operator nosuchvision::nms\\ndoes not exist')")
    check = checks()["nosuchvision"]
    assert not check.ok
    assert check.detail.startswith(
        "0.7 cannot be imported (operator nosuchvision::nms does not exist); install one that fits torch"
    )


def test_one_that_may_be_absent_says_who_needs_it_and_one_that_may_not_is_a_fault(package, monkeypatch):
    monkeypatch.setitem(doctor.OPTIONAL, "nosuchboard", ("nosuchboard", "logger: nosuchboard"))
    assert checks()["nosuchboard"] == ("nosuchboard", True, "absent; only logger: nosuchboard needs it")
    package("nosuchboard", "")
    assert checks()["nosuchboard"] == ("nosuchboard", True, "0.7")
    monkeypatch.setattr(doctor, "PACKAGES", ("nosuchtorch",))
    assert checks()["nosuchtorch"] == ("nosuchtorch", False, "not installed; run pip install snrouter again")


def test_processes_need_a_backend(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_gloo_available", lambda: False)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    assert checks()["processes"] == ("processes", False, "no backend; this torch can run --devices 1 only")
    monkeypatch.setattr(torch.distributed, "is_gloo_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert checks()["processes"] == ("processes", False, "gloo; several GPUs need a torch with NCCL")


def test_it_imports_nothing_that_a_broken_package_breaks():
    script = "import sys, snrouter.doctor; print({'lightning', 'torchmetrics', 'torchvision', 'diffusers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
