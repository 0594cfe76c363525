"""The specs of examples/paper: valid, and each runs to its end with small networks of the same kinds."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from snrouter import evaluation
from snrouter.experts.checkpoints import save_checkpoint
from snrouter.experts.networks import build
from snrouter.recipe import Recipe
from snrouter.report import write_report
from snrouter.spec import Document, load

PAPER = Path(__file__).parents[1] / "examples" / "paper"
SPECS = sorted(path.stem for path in PAPER.glob("*.yaml"))
QUALITY = {"type": "song_unet", "img_resolution": 32, "in_channels": 3, "out_channels": 3, "model_channels": 8, "num_blocks": 1}
LIKELIHOOD = {"type": "vdm_unet", "embedding_dim": 8, "n_blocks": 1, "norm_groups": 4}


class Features(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.float().mean((2, 3)) / 255


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that point a spec at small stand-ins."""
    folder = tmp_path_factory.mktemp("stand-ins")
    torch.manual_seed(0)
    for kind, config in (("edm", QUALITY), ("vdm", LIKELIHOOD)):
        network = build(config)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        save_checkpoint(folder / f"{kind}.safetensors", network, {"type": kind, "network": config})
    with pytest.warns(DeprecationWarning, match="jit"):
        torch.jit.script(Features()).save(str(folder / "features.pt"))
    np.savez(folder / "images.npz", images=np.random.RandomState(0).randint(0, 256, (12, 3, 32, 32)).astype(np.uint8))
    images = f"{{type: npz, path: {folder / 'images.npz'}}}"
    return [
        f"experts.quality.checkpoint={folder / 'edm.safetensors'}",
        f"experts.likelihood.checkpoint={folder / 'vdm.safetensors'}",
        f"data={images}",
        f"reference={images}",
    ]


def small(name: str, stand_ins: list[str]) -> Document:
    """The spec with stand-ins, a cheap solver and few indices."""
    spec = load(str(PAPER / f"{name}.yaml"), []).spec
    overrides = list(stand_ins)
    for i, metric in enumerate(spec.evaluate):
        if metric.name == "fid":
            overrides += [f"evaluate.{i}.checkpoint={Path(stand_ins[0].split('=')[1]).parent / 'features.pt'}"]
            overrides += [f"evaluate.{i}.samples=2"]
        if "repeats" in metric.arguments:
            overrides += [f"evaluate.{i}.images=10"]
    cheap = {"ancestral": ["solver.steps=4"], "ode": ["solver={type: ode, method: euler, steps: 4}"]}
    overrides += cheap[spec.solver.name]
    if spec.sweep is not None and len(spec.sweep.switches) > 2:
        overrides += ["sweep.switches=[{eta: 0.0475}, {eta: 1.0}]"]
    return load(str(PAPER / f"{name}.yaml"), overrides)


@pytest.mark.parametrize("name", SPECS)
def test_each_spec_is_valid(name: str) -> None:
    document = load(str(PAPER / f"{name}.yaml"), [])
    document.check()
    assert document.spec.published is not None or name.startswith("imagenet32")


@pytest.mark.parametrize("name", [name for name in SPECS if "train" not in name])
def test_each_spec_runs_to_its_end(name: str, stand_ins: list[str], tmp_path: Path) -> None:
    document = small(name, stand_ins)
    work = evaluation.run if document.spec.sweep is None else evaluation.sweep
    results = work(document, tmp_path, limit=2 if "table5" not in name else None, progress=False)
    sweep = document.spec.sweep
    routes = 1 if sweep is None else len(document.switches()) * len(document.ends()) + 2 * sweep.singles
    assert len(results.rows) == routes * len(document.spec.evaluate)
    assert all(np.isfinite(row["value"]) for row in results.rows)
    text = write_report([tmp_path]).read_text()
    assert ("published" in text) == (document.spec.published is not None)


@pytest.mark.parametrize("name", [name for name in SPECS if "train" in name])
def test_the_recipes_are_the_sizes_of_the_published_networks(name: str) -> None:
    recipes: dict[str, Recipe] = load(str(PAPER / f"{name}.yaml"), []).spec.train
    with torch.device("meta"):
        sizes = {key: sum(p.numel() for p in build(recipe.network).parameters()) for key, recipe in recipes.items()}
    dataset = name.removesuffix("-train")
    assert sizes == {
        f"edm-{dataset}": 55_733_891 - 9 * 128,  # the published network also reads nine augmentation labels
        f"vdm-{dataset}": {"cifar10": 30_577_667, "imagenet32": 122_136_579}[dataset],
    }
