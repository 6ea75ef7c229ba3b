"""Run RLlib: build and stop the algorithm, train iteration by iteration, and pass errors on to the user."""

from __future__ import annotations

import contextlib
import math
import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any

from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from rayline.compat.ray import delete_cluster_value, get_cluster_value, put_cluster_value
from rayline.core.errors import ParameterError, RaylineError, TrainingError

RESTART_S, POLL_S = 120.0, 0.2
"""Seconds within which a lost worker must be replaced, and between two checks."""


class ReportingEnvRunner(SingleAgentEnvRunner):
    """Runs an environment and stores its error for the driver: RLlib itself only ends the process."""

    def apply(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        def apply_and_report(runner: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return func(runner, *args, **kwargs)
            except Exception as error:
                cause = _first_cause(error)
                put_cluster_value(self.config.rayline_error_key, f"{type(cause).__name__}: {cause}"[:2000])
                raise

        return super().apply(apply_and_report, *args, **kwargs)


@contextlib.contextmanager
def environment_errors(settings: Any) -> Iterator[None]:
    """Raise the error of an environment, in this process or on a worker, as TrainingError."""
    settings.rayline_error_key = f"rayline-rllib-{secrets.token_hex(8)}"
    if settings.env_runner_cls is None:
        settings.env_runners(env_runner_cls=ReportingEnvRunner)
    try:
        yield
    except RaylineError:
        raise
    except Exception as error:
        cause = _first_cause(error)
        left = get_cluster_value(settings.rayline_error_key)
        on_worker = f" on a worker: {left}" if left else f": {type(cause).__name__}: {cause}"
        raise TrainingError(
            f"train.fit: rllib failed{on_worker}",
            "Expected an environment that runs until its episodes end, and workers that keep running.",
            "the error above comes from RLlib; max_failures=1 replaces a lost worker.",
        ) from cause
    finally:
        delete_cluster_value(settings.rayline_error_key)


def _first_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


@contextlib.contextmanager
def built_algorithm(settings: Any) -> Iterator[Any]:
    running = settings.build_algo()
    try:
        yield running
    finally:
        running.stop()


def _metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of an iteration. Before the first episode has ended, its return is NaN."""
    episodes, learned = result.get("env_runners", {}), result.get("learners", {}).get("default_policy", {})
    metrics = {
        name: episodes.get(name, math.nan)
        for name in ("episode_return_mean", "episode_return_min", "episode_return_max")
    }
    metrics |= {"episode_len_mean": episodes.get("episode_len_mean", math.nan)}
    metrics |= {name: value for name, value in learned.items() if name.endswith("loss") or name == "entropy"}
    tested = result.get("evaluation", {}).get("env_runners", {}).get("episode_return_mean")
    metrics |= {} if tested is None else {"test-episode_return_mean": tested}
    metrics["env_steps"] = result.get(
        "num_env_steps_sampled_lifetime", episodes.get("num_env_steps_sampled_lifetime", math.nan)
    )
    return {name: float(value) for name, value in metrics.items()}


def one_iteration(running: Any, steps: float) -> dict[str, float]:
    """Train one iteration and return its metrics; repeat an iteration without steps, while a lost worker is replaced."""
    until = time.monotonic() + RESTART_S
    metrics = _metrics(running.train())
    while metrics["env_steps"] <= steps and time.monotonic() < until:
        time.sleep(POLL_S)
        metrics = _metrics(running.train())
    return metrics


def enough(stop: Mapping[str, float], metrics: Mapping[str, float]) -> bool:
    unknown = [name for name in stop if name not in metrics]
    if unknown:
        raise ParameterError.unknown(unknown, metrics, where="rllib trainer: stop")
    return any(metrics[name] >= bound for name, bound in stop.items())
