"""The numbers of a run for Lightning's loggers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from snrouter.evaluation.results import Results
from snrouter.loggers import make_logger


def log_results(results: Results) -> None:
    """Log the spec as hyperparameters and every row's number, where the spec names a logger."""
    logger = make_logger(results.document.spec.logger, results.folder / "logs", "results")
    if logger is not None:
        logger.log_hyperparams(results.document.dump())
        logger.log_metrics(numbers(results.rows))
        logger.finalize("success")


def numbers(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """`<label>/<metric>` and its standard error; with the variant, and then a count, where several rows would share the name."""
    plain = [f"{row['label']}/{row['metric']}" for row in rows]
    named: dict[str, float] = {}
    for name, row in zip(plain, rows, strict=True):
        full = "/".join([name, *_variant(row)]) if plain.count(name) > 1 else name
        alike = sum(other == full or other.startswith(f"{full}-") for other in named if not other.endswith("/standard_error"))
        full += f"-{alike + 1}" if alike else ""
        named |= {full: row["value"], f"{full}/standard_error": row["standard_error"]}
    return named


def _variant(row: Mapping[str, Any]) -> list[str]:
    """What the metric says of which of its kinds it is, e.g. its estimator: text, and names of what is true."""
    own = [key for key in takewhile(lambda key: key != "label", row) if key not in ("metric", "title", "better")]
    return [key if row[key] is True else row[key] for key in own if row[key] is True or isinstance(row[key], str)]
