"""Gates and mixtures from recipes: what is written runs, first phases are shared, and wrong recipes are told."""

import json

import pytest
import torch
from pydantic import ValidationError

from snrouter.data.digits import digits
from snrouter.errors import CheckpointError, DataError, SpecError, SupportError
from snrouter.experts.checkpoints import read_tensors
from snrouter.recipe import GateRecipe, MixtureRecipe
from snrouter.router.routed_expert import merge
from snrouter.spec import load
from snrouter.training import loop, train_recipe
from snrouter.training.kept import read_steps
from snrouter.training.objectives import built, experts_of

UNET = {"type": "unet", "channels": [4], "dropout": 0.1}
VDM = {"type": "vdm", "network": UNET, "support": (-7.86, 5.0)}
EDM = {"type": "edm", "network": UNET, "support": (-7.86, 5.0)}
TINY = {"steps": 20, "batch_size": 16, "warmup": 2}
MIX = {"type": "mixture", "experts": {"a": "round", "b": None}, "expert": VDM, "warm": 0.2, **TINY}
RECIPES = {
    "frozen": {"type": "gate", "experts": ["quality", "likelihood"], "gate": {"channels": [4], "width": 8}, **TINY},
    "soft": MIX,
    "edm": {**MIX, "expert": EDM, "experts": {"a": "round", "b": None, "c": None}, "top_k": 2},
    "lots": {**MIX, "routing": "random"},
    "alone": {**MIX, "joint": False},
    "adapters": {**MIX, "adapter": 4},
    "single": {**VDM, **TINY},
    "classifier": {"type": "classifier", "network": {"type": "classifier", "channels": 4}, **TINY},
}


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "spec.yaml"
    slices = {"round": {"classes": [0, 6]}, "none": {"classes": [11]}}
    path.write_text(json.dumps({"extends": "digits", "slices": slices, "train": RECIPES}))
    return path


@pytest.mark.parametrize(
    ("name", "route", "files", "phase", "rows"),
    [
        ("frozen", "gate", ["frozen.safetensors"], "gate", 2),
        ("soft", "gate", ["soft/a.safetensors", "soft/b.safetensors", "soft/gate.safetensors"], "joint", 2),
        ("edm", "gate", ["edm/a.safetensors", "edm/b.safetensors", "edm/c.safetensors", "edm/gate.safetensors"], "joint", 2),
        ("lots", "random", ["lots/a.safetensors", "lots/b.safetensors"], "joint", 1),
        ("alone", "gate", ["alone/a.safetensors", "alone/b.safetensors", "alone/gate.safetensors"], "gate", 2),
        ("adapters", "gate", ["adapters/experts.safetensors", "adapters/gate.safetensors"], "joint", 2),
    ],
)
def test_what_a_recipe_writes_is_a_spec_that_runs(name, route, files, phase, rows, spec, tmp_path):
    out = tmp_path / "out"
    trained = train_recipe(load(spec), name, out, progress=False, shared=tmp_path / "shared", logger="csv")
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.safetensors")) == files
    made = load(out / f"{name}.yaml")
    made.check()
    assert made.spec.route.type == trained.route["type"] == route
    names = {"frozen": ["quality", "likelihood"], "edm": ["a", "b", "c"]}.get(name, ["a", "b"])
    assert [*made.spec.experts] == [*trained.experts] == names
    loaded = {}
    expert = merge({key: made.expert(key, loaded) for key in names}, made.policy())
    z = torch.randn(3, 1, 8, 8)
    assert expert.predict(z, torch.full((3,), 1.0, dtype=torch.float64)).eps_hat.shape == z.shape
    steps = 20 if name == "frozen" else 16
    told = {key: trained.steps[phase][key] for key in ("steps", "images", "rows", "found")}
    assert told == {"steps": steps, "images": steps * 16, "rows": steps * 16 * rows, "found": False}
    if name not in ("frozen", "lots"):
        count, images = len(names), 4 * (16 // len(names) * len(names))
        warm = {"steps": 4 if name == "adapters" else 4 * count, "images": images, "rows": images}
        assert {key: trained.steps["warm"][key] for key in warm} == warm
    header = (out / "logs" / name / "version_0" / "metrics.csv").read_text().splitlines()[0].split(",")
    parts = ["load", "entropy", *(f"utilisation/{key}" for key in names)] if route == "gate" else []
    assert {"nll", "loss", *parts} <= {*header}


def test_one_network_gives_its_component_and_a_route(spec, tmp_path):
    trained = train_recipe(load(spec), "single", tmp_path, progress=False, seed=7)
    assert trained.experts == {"single": {"type": "vdm", "checkpoint": str(tmp_path / "single.safetensors")}}
    assert trained.route == {"type": "single", "expert": "single"}
    assert trained.card["seed"] == trained.card["recipe"]["seed"] == 7
    classifier = train_recipe(load(spec), "classifier", tmp_path, progress=False)
    assert (classifier.experts, classifier.route) == ({}, None)


def test_recipes_share_their_first_phase_and_seeds_do_not(spec, tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(loop._Training, "on_train_start", lambda self: trained.append((self.recipe.type, len(self.data))))
    shared, document = tmp_path / "shared", load(spec, ["slices.same={classes: [0, 6]}"])
    train_recipe(document, "soft", tmp_path / "one", progress=False, shared=shared)
    round_, every = int((digits("train").labels % 6 == 0).sum()), 1397
    assert trained == [("vdm", round_), ("vdm", every), ("mixture", every)]
    again = train_recipe(document, "alone", tmp_path / "two", progress=False, shared=shared)
    assert trained[3:] == [("mixture", every)]
    assert again.steps["warm"]["found"]
    assert again.steps["warm"]["seconds"] > 0
    train_recipe(document, "soft", tmp_path / "three", progress=False, shared=shared, seed=1)
    assert trained[4:] == [("vdm", round_), ("vdm", every), ("mixture", every)]


def test_frozen_experts_come_out_as_they_went_in_and_trained_ones_do_not(spec, tmp_path):
    for name, same in (("alone", True), ("soft", False)):
        shared = tmp_path / f"shared-{name}"
        train_recipe(load(spec), name, tmp_path / "out", progress=False, shared=shared)
        warm = [read_tensors(path, {}) for path in shared.glob("*.safetensors")]
        out = read_tensors(tmp_path / "out" / name / "a.safetensors", {})
        assert any(all(torch.equal(out[key], before[key]) for key in out) for before in warm) == same


def test_a_gate_learns_which_expert_is_right(spec, tmp_path):
    """Of two frozen experts one knows next to nothing: the gate's bound falls, and its weight goes to the other."""
    nothing = train_recipe(load(spec, ["train.single.steps=1"]), "single", tmp_path, progress=False).experts["single"]
    (tmp_path / "more.yaml").write_text(json.dumps({"extends": "spec.yaml", "experts": {"nothing": nothing}}))
    overrides = ["train.frozen.experts=[likelihood, nothing]", "train.frozen.steps=150", "train.frozen.load_balance=0.001"]
    overrides += ["train.frozen.batch_size=32", "train.frozen.learning_rate=0.02"]
    trained = train_recipe(load(tmp_path / "more.yaml", overrides), "frozen", tmp_path / "out", progress=False, logger="csv")
    lines = (tmp_path / "out" / "logs" / "frozen" / "version_0" / "metrics.csv").read_text().splitlines()
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    assert trained.card["gate"] == {"experts": ["likelihood", "nothing"]}
    assert float(rows[-1]["utilisation/likelihood"]) > 0.8
    assert float(rows[-1]["nll"]) < 0.8 * float(rows[0]["nll"])


@pytest.mark.parametrize(
    ("override", "name", "error", "message"),
    [
        ("train.soft.experts={a: rund}", "soft", SpecError, r"no slice 'rund'; did you mean 'round'"),
        ("train.soft.experts={a: none}", "soft", DataError, r"none"),
        ("train.frozen.experts=[qualty]", "frozen", SpecError, r"no expert 'qualty'; did you mean 'quality'"),
        ("train.frozen={type: gate, top_k: 4}", "frozen", SpecError, r"top_k: expected at most 3"),
        (
            "train.soft.expert.support=[-7.0, 5.0]",
            "soft",
            SupportError,
            r"train.soft.expert.support: \[-7, 5\] does not hold .*-7.86",
        ),
        ("train.soft.gate={chanels: [4]}", "soft", CheckpointError, r"no 'chanels'"),
        ("train.frozen={type: gate, top_k: 1}", "frozen", SpecError, r"train.frozen.top_k: .*set 1 in the route"),
        ("train.soft.expert.network.type=dit", "soft", SpecError, r"dit"),
    ],
)
def test_what_a_spec_lacks_for_a_recipe_is_told_in_a_line(override, name, error, message, spec, tmp_path):
    with pytest.raises(error, match=message) as caught:
        train_recipe(load(spec, [override]), name, tmp_path / "out", progress=False)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.safetensors"))  # told before anything is trained


def test_each_expert_and_each_phase_has_a_stream_and_a_warm_up_of_its_own(spec, tmp_path):
    recipe = MixtureRecipe(**{**MIX, "warm": 0.5, "steps": 100, "warmup": 60})
    phases = [recipe.warmed(0), recipe.warmed(1), recipe.second()]
    generators = [torch.Generator().manual_seed(seed) for seed in (recipe.seed, *(phase.seed for phase in phases))]
    assert len({float(torch.rand((), generator=generator, dtype=torch.float64)) for generator in generators}) == 4
    assert [phase.warmup for phase in phases] == [5, 5, 5]
    train_recipe(load(spec, ["train.alone.experts={a: null, b: null}"]), "alone", tmp_path / "out", progress=False)
    twins = [read_tensors(tmp_path / "out" / "alone" / f"{name}.safetensors", {}) for name in "ab"]
    assert any(not torch.equal(twins[0][key], twins[1][key]) for key in twins[0])


def test_steps_that_are_no_mapping_count_as_not_kept(tmp_path):
    (tmp_path / "steps.json").write_text("[1]")
    assert read_steps(tmp_path / "steps.json") == {}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({**MIX, "expert": {**VDM, "steps": 3}}, "expert\n.*steps: belongs to the mixture"),
        ({**MIX, "expert": {**VDM, "schedule": "learned_linear"}}, "vdm with schedule linear"),
        ({**MIX, "expert": {"type": "vdm", "network": UNET}}, "support: needed"),
        ({**MIX, "top_k": 3}, "top_k: expected at most 2"),
        ({**MIX, "top_k": 1}, "no gate learns"),
        ({**MIX, "warm": 0.99}, "0.99 of 20 steps leaves none for the second phase"),
        ({**MIX, "seed": 2**32}, "less than"),
        ({**MIX, "batch_size": 1}, "batch_size: expected at least one image for each of 2"),
        ({**MIX, "routing": "random", "joint": False}, "joint: by lot"),
        ({**MIX, "warm": 0.0, "joint": False}, "set warm: 0.15"),
        ({**MIX, "adapter": 4, "expert": {**VDM, "network": {"type": "dit"}}}, "adapter: needs a network of type unet"),
        ({**MIX, "gate": {"experts": 3}}, "experts: follows from"),
        ({**MIX, "experts": {"a.b": None}}, "pattern"),
    ],
)
def test_a_wrong_mixture_is_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        MixtureRecipe(**fields)


def test_an_expert_named_twice_is_refused():
    with pytest.raises(ValidationError, match="expected each once"):
        GateRecipe(type="gate", experts=["a", "a"])


def test_faults_of_a_recipe_are_told_at_their_key(spec):
    with pytest.raises(SpecError) as caught:
        load(spec, ["train.soft.entropie=1", "train.frozen.load_balance=-1"])
    assert sorted(str(caught.value).splitlines()) == [
        "--set train.frozen.load_balance: input should be greater than or equal to 0, got -1",
        "--set train.soft.entropie: unknown key; did you mean 'entropy'?",
    ]


def test_recipes_are_rebuilt_from_their_dump():
    for fields in RECIPES.values():
        if fields["type"] in ("gate", "mixture"):
            model = GateRecipe if fields["type"] == "gate" else MixtureRecipe
            dumped = model(**fields).dump()
            assert model(**json.loads(json.dumps(dumped))).dump() == dumped
            assert dumped.get("experts") in (fields["experts"], None)


@pytest.mark.parametrize("expert", [VDM, EDM])
def test_experts_with_adapters_share_the_features_of_their_trunk(expert):
    recipe = MixtureRecipe(**{**MIX, "adapter": 4, "expert": expert})
    network = built(recipe.together(), digits("train"))
    experts = experts_of(recipe.warmed(0), [network.head(0), network.head(1)])
    assert experts[0].trunk == experts[1].trunk
    assert experts[0].trunk is not None
