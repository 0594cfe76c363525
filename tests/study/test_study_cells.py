"""What a cell asks for: its own spec, under keys that follow content."""

import shutil
from pathlib import Path

import pytest
from small_studies import CLASSIFIER, FakeTraining, small

from snrouter import spec
from snrouter.experts import networks
from snrouter.study import study
from snrouter.study import tasks as study_tasks
from snrouter.study.cells import cells_of

ROWS = (
    "single single-twice-as-long random slice-aligned soft top-2 no-load-balance no-entropy K=2 K=8 adapters frozen threshold tuned"
)


def parameters(network: dict) -> int:
    return sum(p.numel() for p in networks.build(network).parameters())


def test_the_embedded_study_has_every_row_and_a_fair_baseline(tmp_path: Path) -> None:
    document = spec.load("digits-study")
    cells = cells_of(document, tmp_path, None)
    assert [cell.name for cell in cells][::3] == ROWS.split()
    asked = {(cell.name, cell.seed): cell.next_training() for cell in cells if cell.to_do}
    assert len({task.key for task in asked.values()}) == len(asked) == 39  # no row is another's training
    recipe = document.spec.train["mixture"]
    gate = {"type": "gate", "in_channels": 1, "experts": 4, "gamma_min": -7.86, "gamma_max": 5.0} | recipe.gate
    whole = 4 * parameters(recipe.expert["network"]) + parameters(gate)
    assert parameters(document.spec.train["single"].network) == pytest.approx(whole, rel=0.01)


def test_a_key_follows_the_content_of_files_and_the_seed(tmp_path: Path) -> None:
    expert = tmp_path / "expert.safetensors"
    shutil.copy(CLASSIFIER.with_name("digits-likelihood.safetensors"), expert)
    shutil.copy(CLASSIFIER.with_name("digits-likelihood.json"), expert.with_suffix(".json"))

    def keys() -> list[str]:
        document = small(tmp_path, "experts.likelihood.checkpoint=" + str(expert))
        return [cell.evaluation().key for cell in cells_of(document, tmp_path, None) if not cell.to_do]

    before = keys()
    assert len({*before}) == 4
    assert keys() == before
    shutil.copy(CLASSIFIER.with_name("digits-quality.safetensors"), expert)
    assert not {*keys()} & {*before}


def test_recipes_in_a_list_add_their_experts_and_keep_the_route(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = FakeTraining()
    monkeypatch.setattr(study_tasks, "train_recipe", trained)
    first = "train.quality={type: vdm, network: {type: unet, channels: [4]}, support: [-7.86, 5.0], steps: 2}"
    document = small(tmp_path, first, "study.models={both: {train: [quality, single]}}", "study.baseline=both", "study.seeds=[0]")
    (model,) = study(document, tmp_path / "out", progress=False)["models"]
    assert trained.asked == [("quality", 0), ("single", 0)]
    assert model["route"] == "threshold"
    assert list(model["steps"]) == ["quality", "single"]
    ran = spec.load(tmp_path / "out/cells/both/seed0/spec.yaml").spec
    assert ran.experts["quality"].type == "vdm"  # that of the recipe
    assert {*ran.experts} == {"quality", "likelihood", "discrete", "single"}


def test_a_training_is_another_where_its_own_slices_change(tmp_path: Path) -> None:
    def keys(*overrides: str) -> dict[str, str]:
        document = spec.load("digits-study", [*overrides, "study.seeds=[0]"])
        return {cell.name: cell.next_training().key for cell in cells_of(document, tmp_path, None) if cell.to_do}

    before, after = keys(), keys("slices.round={classes: [0]}")
    changed = {name for name in before if before[name] != after[name]}
    assert "soft" in changed
    assert not {"single", "frozen", "K=2", "K=8"} & changed
