"""Training: lowers the loss, repeats bit for bit, and writes checkpoints that the experts read back."""

import dataclasses
import json
from importlib.resources import files
from pathlib import Path

import pytest
import torch
import yaml
from pydantic import ValidationError

from snrouter.data.base import ImageData
from snrouter.data.digits import digits
from snrouter.errors import DataError, NonFiniteError, OutputError, SpecError
from snrouter.experts.checkpoints import load_network, read_tensors, sha256
from snrouter.experts.edm import edm
from snrouter.experts.vdm import vdm
from snrouter.gamma import alpha, sigma
from snrouter.recipe import Recipe
from snrouter.training import train

NETWORK = {"type": "unet", "channels": [8, 8], "dropout": 0.1}
TINY = {"network": NETWORK, "steps": 40, "batch_size": 32, "warmup": 5}
EXPERT = {**TINY, "support": (-7.86, 5.0)}
CLASSIFIER = {**TINY, "type": "classifier", "network": {"type": "classifier", "channels": 8}}
EMBEDDED = Path(str(files("snrouter.embedded")))


@pytest.fixture(scope="module")
def data() -> ImageData:
    return digits("train")


def noise_error(expert, data: ImageData) -> float:
    images = data.images(slice(0, 64))
    generator = torch.Generator().manual_seed(0)
    gamma = torch.linspace(-5, 4, 64, dtype=torch.float64)
    eps = torch.randn(images.shape, generator=generator)
    z = (alpha(gamma).view(-1, 1, 1, 1) * images + sigma(gamma).view(-1, 1, 1, 1) * eps).float()
    with torch.no_grad():
        return float((expert.eps_hat(z, gamma) - eps).square().mean())


@pytest.mark.parametrize(("kind", "read"), [("edm", edm), ("vdm", vdm)])
def test_a_trained_expert_denoises_better_than_its_untrained_self(kind, read, data, tmp_path):
    card = train(Recipe(type=kind, **EXPERT), data, tmp_path / "expert.safetensors", progress=False)
    train(Recipe(type=kind, **EXPERT | {"steps": 1}), data, tmp_path / "untrained.safetensors", progress=False)
    expert, untrained = read(tmp_path / "expert.safetensors"), read(tmp_path / "untrained.safetensors")
    assert tuple(expert.support) == (-7.86, 5.0)
    assert noise_error(expert, data) < 0.8 * noise_error(untrained, data)
    assert card["data"] == {"name": "digits/train", "sha256": data.content_hash(), "images": 1397}


@pytest.mark.parametrize(("kind", "read"), [("edm", edm), ("vdm", vdm)])
@pytest.mark.parametrize("name", ["elbo", "simple", "edm"])
def test_every_weighting_trains_either_type(kind, read, name, data, tmp_path):
    recipe = Recipe(type=kind, weighting=name, **EXPERT)
    train(recipe, data, tmp_path / "expert.safetensors", progress=False)
    assert noise_error(read(tmp_path / "expert.safetensors"), data) < 0.8


def test_weightings_trade_one_noise_level_for_another(data, tmp_path):
    errors = {}
    for name in ("elbo", "edm"):
        recipe = Recipe(type="edm", weighting=name, **EXPERT | {"steps": 200})
        train(recipe, data, tmp_path / f"{name}.safetensors", progress=False)
        images = data.images(slice(0, 256))
        eps = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
        expert = edm(tmp_path / f"{name}.safetensors")
        gamma = torch.tensor(-7.5, dtype=torch.float64)
        z = (alpha(gamma) * images + sigma(gamma) * eps).float()
        with torch.no_grad():
            errors[name] = float((expert.eps_hat(z, gamma) - eps).square().mean())
    assert errors["elbo"] < errors["edm"]


def test_a_trained_classifier_classifies(data, tmp_path):
    train(Recipe(**CLASSIFIER | {"steps": 150}), data, tmp_path / "classifier.safetensors", progress=False)
    network, _, _ = load_network(tmp_path / "classifier.safetensors")
    correct = network(data.images()).argmax(1) == data.labels
    assert float(correct.double().mean()) > 0.8


def test_training_repeats_bit_for_bit_and_leaves_the_callers_random_state(data, tmp_path):
    recipe = Recipe(type="edm", **EXPERT | {"steps": 8})
    cards = []
    for name in ("one", "two"):
        torch.manual_seed(len(cards))
        before = torch.random.get_rng_state()
        cards.append(train(recipe, data, tmp_path / f"{name}.safetensors", progress=False))
        assert torch.equal(torch.random.get_rng_state(), before)
    assert cards[0] == cards[1]
    other = train(recipe.model_copy(update={"seed": 1}), data, tmp_path / "other.safetensors", progress=False, accelerator="cpu")
    assert other["sha256"] != cards[0]["sha256"]


def test_a_recipe_is_rebuilt_from_its_card(data, tmp_path):
    recipe = Recipe(type="edm", **EXPERT | {"steps": 1, "p_mean": -0.5})
    train(recipe, data, tmp_path / "expert.safetensors", progress=False)
    assert Recipe(**json.loads((tmp_path / "expert.json").read_text())["recipe"]) == recipe


def test_a_learned_schedule_moves_its_ends_and_is_read_back(data, tmp_path):
    recipe = Recipe(type="vdm", schedule="learned_linear", **EXPERT)
    card = train(recipe, data, tmp_path / "expert.safetensors", progress=False)
    expert = vdm(tmp_path / "expert.safetensors")
    assert tuple(expert.support) == pytest.approx(tuple(card["expert"]["support"]), abs=1e-6)
    moved = [abs(end - start) for end, start in zip(expert.support, recipe.support, strict=True)]
    assert min(moved) > 1e-3
    assert noise_error(expert, data) < 0.9


def test_pixels_scaled_for_the_network_train_on_its_own_gammas(data, tmp_path):
    recipe = Recipe(type="edm", **EXPERT | {"data_scale": 2.0})
    train(recipe, data, tmp_path / "expert.safetensors", progress=False)
    expert = edm(tmp_path / "expert.safetensors")
    shift = 2 * torch.tensor(2.0).log().item()
    assert tuple(expert.support) == pytest.approx((-7.86 - shift, 5.0 - shift))
    assert expert.data_scale == 2.0


def test_a_conditional_network_is_trained_on_labels(data, tmp_path):
    recipe = Recipe(type="edm", **EXPERT | {"network": {**NETWORK, "classes": 10}, "steps": 3})
    train(recipe, data, tmp_path / "expert.safetensors", progress=False)
    tensors = read_tensors(tmp_path / "expert.safetensors", {})
    assert tensors["label.weight"].shape[0] == 10


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"type": "edm", **EXPERT, "steps": 0}, "greater than 0"),
        ({"type": "edm", **TINY}, "support: needed"),
        ({"type": "edm", **TINY, "support": (5.0, -7.86)}, "gamma_min < gamma_max"),
        ({"type": "vdm", **EXPERT, "p_mean": -1.2}, "p_mean: of no use to type vdm with weighting elbo"),
        ({**CLASSIFIER, "weighting": "edm"}, "weighting: of no use to type classifier"),
        ({"type": "vdm", **EXPERT, "weighting": "edm", "schedule": "learned_linear"}, "learned ends need weighting elbo"),
        ({**CLASSIFIER, "support": (-7.86, 5.0)}, "a classifier has none"),
        ({"type": "vdm", **EXPERT, "step": 3}, "Extra inputs"),
    ],
)
def test_a_wrong_recipe_is_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        Recipe(**fields)


@pytest.mark.parametrize(
    ("fields", "changes", "error", "message"),
    [
        (CLASSIFIER, {"labels": None}, DataError, "no labels"),
        ({"type": "vdm", **EXPERT, "schedule": "learned_linear"}, {"levels": None}, DataError, "no levels"),
        ({"type": "vdm", **EXPERT, "network": {**NETWORK, "in_channels": 3}}, {}, SpecError, "in_channels: 1"),
        ({"type": "vdm", **EXPERT, "network": {"type": "unet", "channels": [8] * 5}}, {}, SpecError, "divisible by 16"),
        ({"type": "vdm", **EXPERT, "network": {"type": "unet", "chanels": [8]}}, {}, SpecError, "chanels"),
    ],
)
def test_data_that_a_recipe_cannot_use_is_refused(fields, changes, error, message, data, tmp_path):
    unusable = dataclasses.replace(data, **changes)
    with pytest.raises(error, match=message) as caught:
        train(Recipe(**fields), unusable, tmp_path / "x.safetensors", progress=False)
    assert "\n" not in str(caught.value)


def test_a_loss_that_is_not_finite_names_its_step(data, tmp_path):
    broken = ImageData(torch.full((32, 1, 8, 8), torch.nan), None, None, "broken")
    for kind in ("vdm", "edm"):
        with pytest.raises(
            NonFiniteError, match=r"nan at step 0 of 40; lower learning_rate .*expert 'network' returned NaN .*gamma="
        ):
            train(Recipe(type=kind, **EXPERT), broken, tmp_path / "x.safetensors", progress=False)
    assert not list(tmp_path.iterdir())


def test_an_unwritable_folder_is_an_output_error(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose another folder"):
        train(Recipe(type="vdm", **EXPERT | {"steps": 1}), data, tmp_path / "file" / "x.safetensors", progress=False)


def test_the_progress_bar_is_on_stderr(data, tmp_path, capsys):
    train(Recipe(type="vdm", **EXPERT | {"steps": 2}), data, tmp_path / "x.safetensors")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "2/2" in captured.err


def test_the_shipped_weights_are_the_ones_their_cards_and_recipes_describe(data):
    recipes = yaml.safe_load((EMBEDDED / "digits.yaml").read_text())["train"]
    weights = {name: EMBEDDED / f"digits-{name}.safetensors" for name in ("quality", "likelihood", "classifier")}
    assert recipes.keys() == weights.keys()
    for name, path in weights.items():
        card = json.loads(path.with_suffix(".json").read_text())
        assert card["sha256"] == sha256(path)
        assert card["recipe"] == Recipe(**recipes[name]).dump()
        assert card["data"]["sha256"] == data.content_hash()
    assert sum(path.stat().st_size for path in weights.values()) < 2e6


def test_the_shipped_classifier_knows_unseen_digits():
    test = digits("test")
    network, _, _ = load_network(EMBEDDED / "digits-classifier.safetensors")
    assert float((network(test.images()).argmax(1) == test.labels).double().mean()) >= 0.95
