"""The metrics of a search by name, and their directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rayline.core.errors import ParameterError
from rayline.core.target import Target
from rayline.evaluate import metrics
from rayline.evaluate.custom_metrics import Custom
from rayline.evaluate.metric import Metric


def own_functions(metric: Any, custom: Custom) -> tuple[Any, dict[str, Metric]]:
    """Return the names of the metrics, and the custom functions among them by name."""
    several = isinstance(metric, Mapping) or (_is_list(metric) and not isinstance(metric, str))
    callables = [m for m in metric if callable(m)] if several and not isinstance(metric, Mapping) else metric
    if not callable(metric) and not isinstance(metric, Mapping) and not (several and callables):
        return metric, {}
    names, functions = metrics.given(callables, custom)
    if several and not isinstance(metric, Mapping):
        rest = iter(names)
        return [next(rest) if callable(m) else m for m in metric], functions
    return list(names) if several else names[0], functions


def names_and_modes(metric: Any, mode: Any, target: Target, custom: Custom) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the metrics and their directions. Raises ParameterError on wrong ones."""
    names = [metric] if metric is None or isinstance(metric, str) else list(metric) if _is_list(metric) else []
    modes = [mode] * len(names) if mode is None or isinstance(mode, str) else list(mode) if _is_list(mode) else []
    if not names or len(set(names)) < len(names) or not all(isinstance(n, (str, type(None))) for n in names):
        raise ParameterError.value("metric", "a name or a list of different names", metric)
    if len(modes) != len(names) or not all(m in (None, "min", "max") for m in modes):
        raise ParameterError.value("mode", "'min', 'max' or None, for each metric", mode)
    if isinstance(mode, str) and len(names) > 1:
        raise ParameterError.value("mode", f"a list of {len(names)}, one for each metric, or None", mode)
    resolved = [_metric(name, direction, target, custom) for name, direction in zip(names, modes, strict=True)]
    return tuple(name for name, _ in resolved), tuple(direction for _, direction in resolved)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence)


def _metric(metric: str | None, mode: str | None, target: Target, custom: Custom) -> tuple[str, str]:
    """Return the name of a metric and its direction."""
    if metric is None:
        metric = metrics.defaults_of(target)[0]
    if metric.startswith("train-"):
        raise ParameterError.here(
            f"{metric!r} is measured on the training rows.",
            "Expected a metric of the held-out rows.",
            f"use metric={metric.removeprefix('train-')!r}.",
        )
    if metrics.is_known(metric, custom):
        metrics.check([metric], target, custom)
    known = metrics.mode(metric, custom)
    if mode is None and known is None and metric in custom:
        raise ParameterError.here(
            f"the direction of the function {metric!r} is unknown.",
            "Expected mode.",
            "pass mode='min' or 'max'.",
        )
    if mode is None and known is None:
        raise ParameterError.unknown([metric], metrics.names(), "metric")
    if mode is not None and known is not None and mode != known:
        raise ParameterError.here(
            f"mode={mode!r} would search for the worst {metric}.",
            f"Expected {known!r}.",
            "leave mode out, or correct it.",
        )
    return metric, str(mode or known)
