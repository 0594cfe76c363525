"""Jobs: what every metric is summarised from, what a job depends on, and what is refused before work."""

from __future__ import annotations

import platform
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import CLASSIFIER, digits, made, values

import snrouter
from snrouter import evaluation
from snrouter.checks import validate
from snrouter.errors import SpecError
from snrouter.evaluation import jobs as planning
from snrouter.evaluation.shards import environment_identity
from snrouter.experts.checkpoints import sha256
from snrouter.metrics.base import Context, Metric, Summary
from snrouter.metrics.frechet import Frechet
from snrouter.metrics.pairs import PSNR

PAIRS = (
    "evaluate=[{metric: psnr, images: 7}, {metric: ssim, images: 4}, {metric: psnr, pairs: same_noise, against: quality, images: 6}, "
    "{metric: psnr, pairs: same_noise, against: quality, images: 3}]"
)
FRECHET = f"{{metric: fid, samples: %d, checkpoint: {CLASSIFIER}}}"


def jobs(document: Any, routes: Any = None, **arguments: Any) -> list[Any]:
    return evaluation.plan(evaluation.Worker(routes or [evaluation.own_route(document)]), **arguments)


@pytest.fixture
def summarised(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Metric, Context, Any]]:
    """What metrics are given."""
    calls: list[tuple[Metric, Context, Any]] = []
    for kind in (PSNR, Frechet):

        def watch(self: Any, context: Context, measured: Any, original: Any = kind.summarise) -> Summary:
            calls.append((self, context, measured))
            return original(self, context, measured)  # type: ignore[no-any-return]

        monkeypatch.setattr(kind, "summarise", watch)
    return calls


def test_metrics_that_see_the_same_images_share_a_job_as_large_as_the_largest() -> None:
    document = digits(
        PAIRS.replace("]", ", {metric: bpd, estimator: vlb, images: 9}, {metric: cost, repetitions: 3}, " + FRECHET % 11 + "]")
    )
    planned = jobs(document, evaluation.sweep_routes(document), trace=True)
    (labels,) = [[route.label for route in evaluation.sweep_routes(document)]]
    assert [(job.kind, job.metric, job.count) for job in planned if labels[job.route] == "quality"] == [
        ("reconstructions", None, 7),
        ("samples", None, 11),
        ("measure", 4, 9),
        ("route", 5, 3),
        ("trace", None, 4),
    ]
    assert len(planned) == 5 * len(labels)
    assert len({job.key for job in planned}) == len(planned)
    assert {job.count for job in jobs(digits(), limit=3, trace=True)} == {3}


def test_a_reconstruction_is_compared_with_its_original(tmp_path: Path, summarised: list[Any]) -> None:
    document = digits("evaluate=[{metric: psnr, images: 7}]")
    evaluation.run(document, tmp_path, progress=False)
    ((_, _, measured),) = summarised
    originals = document.dataset("data").images(range(7))
    assert torch.equal(measured["others"], originals)
    experts = {name: document.expert(name) for name in ("likelihood", "quality")}
    route = snrouter.merge(experts, document.policy())
    wanted = [
        snrouter.reconstruct(route, originals[rows], document.bounds, document.solver(), levels=17).x
        for rows in (slice(0, 5), slice(5, 7))
    ]
    assert torch.equal(measured["images"], torch.cat(wanted))


def test_the_same_noise_is_compared_between_routes(tmp_path: Path, summarised: list[Any]) -> None:
    document = digits(PAIRS)
    results = evaluation.sweep(document, tmp_path, progress=False)
    rows = [row for row in results.rows if row.get("pairs") == "same_noise"]
    assert {row["label"] for row in rows} == {"eta=0.2", "eta=0.5", "likelihood"}  # not the route compared with
    pairs = [measured for metric, _, measured in summarised if metric.pairs == "same_noise"]
    assert len(pairs) == len(rows) == 6
    assert pairs[0] is pairs[1]  # of one route, against the same
    quality = [measured for metric, _, measured in summarised if metric.pairs == "reconstruction"][-1]
    assert "others" in quality
    for measured in pairs:
        assert torch.equal(measured["others"], results.samples["quality"])
        assert not torch.equal(measured["images"], results.samples["quality"])
    paired = rows[0]["paired"]["likelihood"]
    assert paired["difference"] == rows[0]["value"] - rows[4]["value"]


def test_a_route_to_compare_with_must_be_there(tmp_path: Path) -> None:
    expected = r"evaluate\[2\]: against: expected another route of this command, got 'quality'; it has "
    with pytest.raises(SpecError, match=expected + r"eta=0\.2; use snrouter sweep, which compares routes$"):
        evaluation.run(digits(PAIRS), tmp_path, progress=False)
    with pytest.raises(SpecError, match=expected + r"eta=0\.2, eta=0\.5$"):
        evaluation.sweep(digits(PAIRS, "sweep.singles=false"), tmp_path, progress=False)
    with pytest.raises(SpecError, match=r"got 'quality'; it has quality; use snrouter sweep"):
        evaluation.run(digits(PAIRS, "route={type: single, expert: quality}"), tmp_path, progress=False)
    assert not list(tmp_path.iterdir())
    checks = [*validate(digits(PAIRS), dry_run=True)]
    (metrics,) = [check.detail for check in checks if check.name == "metrics"]
    assert metrics == "they ask for 7 reconstructions, 6 samples; one compares routes: use snrouter sweep"
    tried = [check.detail for check in checks if check.name == "dry run"]
    assert [line.partition(", on 4: ")[0] for line in tried] == ["eta=0.2", "eta=0.5", "likelihood", "quality"]
    assert [line.count("psnr/same_noise") for line in tried] == [2, 2, 2, 0]
    with pytest.raises(SpecError, match="use snrouter sweep"):
        list(validate(digits(PAIRS, "sweep=null")))


def test_a_solver_that_draws_noise_reconstructs_nothing(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"evaluate\[0\]: .* draws noise and cannot encode"):
        evaluation.run(digits(PAIRS, "solver={type: ancestral, steps: 3}"), tmp_path, progress=False)


def test_a_metric_draws_exactly_as_the_run_does(tmp_path: Path) -> None:
    document = digits("condition=labels", "evaluate=[" + FRECHET % 7 + "]")
    evaluation.run(document, tmp_path, progress=False)
    worker = evaluation.Worker([evaluation.own_route(document)])
    (route,) = worker.routes
    draw = worker.context(route).draw
    assert draw is not None
    solution = draw(worker.expert(route), range(5, 7))
    assert torch.equal(solution.x, made(document, tmp_path, "samples")["images"][5:])


def test_metrics_of_one_route_share_what_they_find(tmp_path: Path, summarised: list[Any]) -> None:
    evaluation.sweep(digits("evaluate=[" + FRECHET % 6 + ", " + FRECHET % 7 + "]", "sweep.singles=false"), tmp_path, progress=False)
    first, second, third, fourth = (measured for _, _, measured in summarised)
    assert first is second
    assert third is fourth
    assert first is not third


def test_every_row_tells_how_it_was_made(tmp_path: Path) -> None:
    text = "evaluate=[{metric: bpd, estimator: ode, images: 2, solver: {rtol: 0.1, atol: 0.1}}, {metric: psnr, images: 2}, "
    text += "{metric: psnr, pairs: same_noise, against: quality, images: 2}, {metric: cost, batch: 2, repetitions: 2}, "
    document = digits(text + FRECHET % 3 + "]", "solver={type: ode, rtol: 1.0, atol: 1.0}", "sweep.switches=[{eta: 0.2}]")
    rows = evaluation.sweep(document, tmp_path, progress=False).rows
    always = {
        "gamma_min",
        "gamma_max",
        "seed",
        "snrouter",
        "torch",
        "device",
        "batch_size",
        "precision",
        "condition",
        "step_control",
        "weights_sha256",
    }
    drawn, data = {"solver", "final", "levels"}, {"data", "data_sha256", "data_protocol", "data_statistics"}
    own = {
        "bpd": {"rtol", "atol", "divergence", "levels"} | data,
        "psnr": drawn | data,
        "psnr same_noise": drawn,
        "cost": drawn | {"batch", "repetitions", "processor"},
        "fid": drawn | {"features_sha256", "reference", "reference_sha256"},
    }
    for row in rows:
        name = f"{row['metric']} {row['pairs']}".removesuffix(" reconstruction") if "pairs" in row else row["metric"]
        assert row["protocol"].keys() >= always | own[name], name
        assert row["protocol"]["step_control"] == "one error norm a batch"
        assert row["nfe"] == pytest.approx(sum(row["nfe_per_expert"].values()))
        assert row["nfe"] > 0
        assert row.get("better") in ((None,) if name == "psnr same_noise" else ("lower", "higher"))
        assert row["title"]
        assert row["n"] >= 2


def test_an_expert_on_no_route_is_never_loaded(tmp_path: Path) -> None:
    spare = "experts.spare={type: edm, checkpoint: nowhere.safetensors}"
    assert values(evaluation.run(digits(spare), tmp_path, progress=False)) == values(
        evaluation.run(digits(), tmp_path, progress=False)
    )
    assert all(check.ok for check in validate(digits(spare)))


def test_where_experts_wait_changes_nothing(tmp_path: Path) -> None:
    kept = evaluation.run(digits(), tmp_path / "a", progress=False)
    moved = evaluation.run(digits("residency=offload"), tmp_path / "b", progress=False)
    assert values(moved) == values(kept)
    assert moved.fingerprint == kept.fingerprint
    assert [row["nfe_per_expert"] for row in moved.rows] == [row["nfe_per_expert"] for row in kept.rows]


def test_an_expert_that_waits_for_the_next_shard_stays_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    document = digits("residency=offload", "route={type: single, expert: quality}")
    worker = evaluation.Worker([evaluation.own_route(document)])
    (route,) = worker.routes
    z = torch.zeros(1, 1, 8, 8)
    first = worker.expert(route, "cpu")(z, 0.0)
    monkeypatch.setattr(
        torch.nn.Module, "to", lambda *_, **__: pytest.fail("moved behind the back of the one who knows where it is")
    )
    assert torch.equal(worker.expert(route, "cpu")(z, 0.0).eps_hat, first.eps_hat)


def test_a_time_is_of_one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    document = digits("evaluate=[{metric: cost}, " + FRECHET % 7 + "]")
    first = jobs(document)
    monkeypatch.setattr(platform, "node", lambda: "another")
    assert [one.key == other.key for one, other in zip(first, jobs(document), strict=True)] == [False, True]


def test_a_machine_names_every_kind_of_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["B", "A", "B"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: names[i])
    assert environment_identity(0, 1, "float32")["device"] == "A, B"


def test_what_a_row_tells_is_in_the_fingerprint_but_for_the_name_of_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    document = digits("evaluate=[{metric: psnr, images: 7}, " + FRECHET % 7 + "]")
    keys, original = [job.key for job in jobs(document)], planning.protocol
    for fact, alike in (("data", True), ("told by a later version", False)):
        monkeypatch.setattr(planning, "protocol", lambda *of, fact=fact: original(*of) | {fact: "another"})
        assert [key == job.key for key, job in zip(keys, jobs(document), strict=True)] == [alike, alike]


def test_a_row_tells_the_hashes_of_its_weights(tmp_path: Path) -> None:
    document = digits("experts.other={type: gaussian, mean: [0.0], standard_deviation: [1.0], shape: [1, 8, 8]}")
    hashes = {name: sha256(CLASSIFIER.with_name(f"digits-{name}.safetensors")) for name in ("likelihood", "quality")}
    (row, _) = evaluation.run(document, tmp_path, limit=1, progress=False).rows
    assert row["protocol"]["weights_sha256"] == hashes
    assert document.weights_sha256("other") is None  # of no file
    folder = tmp_path / "unet"
    folder.mkdir()
    for name in ("config.json", "weights"):
        (folder / name).write_text(name)
    diffusers = digits(f"experts.other={{type: diffusers, checkpoint: {folder}}}")
    first = diffusers.weights_sha256("other")
    (folder / "weights").write_text("others")
    assert first is not None
    assert diffusers.weights_sha256("other") not in (None, first)


def test_what_results_depend_on_is_in_the_fingerprint(tmp_path: Path) -> None:
    document = digits()
    for name in ("quality", "classifier"):
        for suffix in ("safetensors", "json"):
            shutil.copy(Path(document.dump()["experts"]["quality"]["checkpoint"]).with_name(f"digits-{name}.{suffix}"), tmp_path)
    local = [f"experts.quality.checkpoint={tmp_path}/digits-quality.safetensors"]
    first = evaluation.run(digits(*local), tmp_path / "o", progress=False)
    card = tmp_path / "digits-quality.json"
    card.write_text(card.read_text().replace('"sigma_data": 0.5', '"sigma_data": 0.7'))
    other = evaluation.run(digits(*local), tmp_path / "o", progress=False)
    assert other.rows[1]["value"] != first.rows[1]["value"]  # its shards are not the old ones
    prints = {first.fingerprint, other.fingerprint}
    for i, change in enumerate((["evaluate.1.samples=11"], ["reference.split=test"], ["evaluate.0.images=9"])):
        prints.add(evaluation.run(digits(*change), tmp_path / str(i), progress=False).fingerprint)
    prints.add(evaluation.run(digits(), tmp_path / "limited", limit=3, progress=False).fingerprint)
    assert len(prints) == 6


def test_labels_are_part_of_the_data() -> None:
    data = digits().dataset("data")
    assert replace(data, labels=data.labels * 0).content_hash() != data.content_hash()
