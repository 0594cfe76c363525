"""statistics: mean and covariance of a reference's features, as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from snrouter.cli.options import Debug, Json, Set, SpecArgument, load_spec
from snrouter.cli.output import print_json
from snrouter.errors import SpecError


def statistics(
    spec: SpecArgument,
    out: Annotated[Path, typer.Option("--out", help="The file to write.")] = Path("statistics.npz"),
    as_json: Json = False,
    set_: Set = None,
    debug: Debug = False,
) -> None:
    """Write mean and covariance of the reference's features, those of the spec's first `fid`, as .npz (mu, sigma)."""
    from snrouter.metrics.frechet import Frechet
    from snrouter.metrics.statistics_file import write_statistics

    document = load_spec(spec, set_)
    metric = next((metric for metric in document.metrics() if isinstance(metric, Frechet)), None)
    if metric is None:
        raise SpecError(f"{spec}: no fid in evaluate, whose features to use; add e.g. {{metric: fid, checkpoint: inception.pt}}")
    reference = document.dataset("reference")
    if reference is None:
        raise SpecError(f"{spec}: no reference images; add e.g. reference: {{type: digits, split: train}}")
    extractor = metric.extractor()
    found = write_statistics(out, extractor, reference)
    told = {"file": str(out), "features": extractor.name, "dimensions": len(found.mean), "reference": reference.name, "n": found.n}
    if as_json:
        print_json(told)
    else:
        print(f"{out}: {len(found.mean)} features ({extractor.name}) of {found.n} images of {reference.name}")
