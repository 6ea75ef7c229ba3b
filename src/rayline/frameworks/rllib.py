"""RLlib: `train.RLlibTrainer("PPO", "CartPole-v1")` makes its experience itself, in an environment."""

from __future__ import annotations

import contextlib
import logging
import math
import secrets
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rayline.core import registry
from rayline.core.errors import MissingExtraError, ParameterError, RaylineError, TrainingError
from rayline.core.framework import Arguments, Array, Features, Framework, Job, Native, Spaces
from rayline.frameworks import rllib_modules as modules
from rayline.frameworks.rllib_modules import register_rl_module

try:
    import gymnasium
    from ray.experimental import internal_kv
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
    from ray.rllib.algorithms.registry import ALGORITHMS
    from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
    from ray.tune.registry import ENV_CREATOR, _global_registry, register_env
except ImportError as error:
    raise MissingExtraError.of("RLlibTrainer", "ray[rllib]", "rllib") from error

__all__ = ["RLlib", "register_rl_module"]

EXAMPLES = 5
"""Observations that are looked at for documentation and for the golden rows of a saved policy."""

RESTART_S, POLL_S = 120.0, 0.2
"""Seconds in which a lost worker must be back, and between two looks."""

OWN = {
    "num_env_runners": "the trainer's num_workers",
    "num_cpus_per_env_runner": "the trainer's resources_per_worker",
    "env": "the argument env",
    "framework_str": "nothing: policies are PyTorch modules",
    "framework": "nothing: policies are PyTorch modules",
}
"""Settings of RLlib that the trainer makes, and what says them."""

UNSEEN = ("_env_to_module_connector", "_module_to_env_connector")
"""What would stand between the observations and the policy, in code of the user's own."""


class RLlib(Framework):
    """Reinforcement learning: `RLlibTrainer("PPO", "CartPole-v1", {"lr": 1e-3}, iterations=20)`, trained without data:
    `train.fit(trainer)`.

    Observations are one column `observation`, a vector of the space's shape. Actions are the target: classes 0, 1, … of
    a Discrete space (with probabilities, where the algorithm has a distribution), numbers of a Box, within its bounds.
    Predictions are the best action, without exploration.

    Parameters
    ----------
    algorithm
        "PPO", "APPO", "IMPALA", "DQN", "SAC", or an AlgorithmConfig of your own.
    env
        The name of an environment of Gymnasium or of `ray.tune.register_env`, a class of `gymnasium.Env`, or a function
        of its configuration.
    config
        Settings of the algorithm's AlgorithmConfig by name, `env_config` and `model_config` among them.
    iterations
        How often `Algorithm.train` is called.
    stop
        Metrics of the history that are enough, as {"episode_return_mean": 195}.

    `num_workers=N` samples on N Ray actors; `max_failures` is how often a lost one is replaced. Observations pass
    through RLlib's own connectors only, and a policy has no memory: neither could be saved as data.
    """

    name = "rllib"
    package = "ray[rllib]"
    distributed = True
    acts = True
    iterations = "iterations"

    def train(
        self,
        job: Job,
        algorithm: Any = "PPO",
        env: Any = None,
        config: Mapping[str, Any] | None = None,
        *,
        iterations: int = 10,
        stop: Mapping[str, float] | None = None,
    ) -> Any:
        settings = _settings(algorithm, env, config)
        settings.env_runners(num_env_runners=job.num_workers, **_resources(job.resources_per_worker))
        settings.fault_tolerance(
            restart_failed_env_runners=job.max_failures > 0, max_num_env_runner_restarts=job.max_failures
        )
        if settings.seed is None:
            settings.debugging(seed=job.seed)
        if job.use_gpu:
            settings.learners(num_gpus_per_learner=settings.num_gpus_per_learner or 1)
        registry.late("ensure_ray")()
        with _quiet(), modules.threads(job.n_threads), _telling(settings), _built(settings) as running:
            modules.refuse_memory(running.env_runner.module)
            found: dict[str, float] = {}
            for iteration in range(iterations):
                found = _iteration(running, found.get("env_steps", 0.0))
                job.checkpoint(iteration, lambda directory: self.save(modules.policy(running), directory))
                if job.report(iteration, found) or _enough(stop or {}, found):
                    break
            return modules.policy(running)

    def spaces(
        self, algorithm: Any = "PPO", env: Any = None, config: Mapping[str, Any] | None = None, **options: Any
    ) -> Spaces:
        settings = _settings(algorithm, env, config)
        world = _world(settings)
        try:
            observed, acted = world.observation_space, world.action_space
            modules.refuse_spaces(observed, acted)
            seen = [world.reset(seed=0)[0]]
            acted.seed(0)
            while len(seen) < EXAMPLES:
                observation, _, terminated, truncated, _ = world.step(acted.sample())
                seen.append(world.reset()[0] if terminated or truncated else observation)
        finally:
            world.close()
        features = modules.features(observed)
        rows = pl.DataFrame({modules.OBSERVATION: np.stack(seen).astype(np.float32)}, schema=features)
        return Spaces(features, modules.target(acted), rows, "episode_return_mean")

    def predict(self, model: Any, features: Features) -> Array:
        return modules.actions(model, features)

    def save(self, model: Any, directory: Path) -> None:
        modules.save(model, directory)

    def load(self, directory: Path, *, module: Any = None) -> Any:
        """`module` is the class of a policy of your own: `rayline.load(path, module=Policy)`."""
        return modules.load(directory, module)

    def load_options(self, model: Any) -> dict[str, Any]:
        return {"module": type(model)}

    def owns(self, model: Any) -> bool:
        return modules.is_policy(model)

    def inspect(self, model: Any) -> Native:
        about = modules.target(model.action_space)
        n_classes = max((len(c) for c in about.classes), default=2)
        features = modules.features(model.observation_space)
        return Native(about.task, n_classes, len(about.columns), list(features), features, about)

    def check(self, *args: Any, **kwargs: Any) -> None:
        super().check(*args, **kwargs)
        given = {**dict(zip(("algorithm", "env", "config"), args, strict=False)), **kwargs}
        iterations, stop = given.get("iterations", 10), given.get("stop")
        if not isinstance(iterations, int) or isinstance(iterations, bool) or iterations < 1:
            raise ParameterError.value("rllib trainer", "iterations", "an integer of at least 1", iterations)
        if stop is not None and not (
            isinstance(stop, Mapping) and all(isinstance(v, (int, float)) for v in stop.values())
        ):
            raise ParameterError.value("rllib trainer", "stop", 'a dict like {"episode_return_mean": 195}', stop)
        settings = _settings(given.get("algorithm", "PPO"), given.get("env"), given.get("config"))
        _world(settings).close()

    def configure(self, args: Sequence[Any], kwargs: Mapping[str, Any], changes: Mapping[str, Any]) -> Arguments:
        given = {**dict(zip(("algorithm", "env", "config"), args, strict=False)), **kwargs}
        own = {name: value for name, value in changes.items() if name in ("algorithm", "env", "iterations", "stop")}
        config = {name: value for name, value in changes.items() if name not in own}
        return (), {**given, **own, "config": {**(given.get("config") or {}), **config}}


# -- settings ----------------------------------------------------------------------------------------------------------


def _settings(algorithm: Any, env: Any, config: Mapping[str, Any] | None) -> Any:
    """RLlib's own configuration. Raises ParameterError on what it does not know, or could not be saved."""
    if isinstance(algorithm, AlgorithmConfig):
        settings = algorithm.copy(copy_frozen=False)
    elif isinstance(algorithm, str) and algorithm in modules.ALGORITHMS:
        settings = ALGORITHMS[algorithm]()[1]
    else:
        raise ParameterError.value(
            "rllib trainer", "algorithm", f"one of {list(modules.ALGORITHMS)}, or an AlgorithmConfig", algorithm
        )
    given = dict(config or {})
    for name in OWN.keys() & given.keys():
        raise ParameterError(
            f"rllib trainer: config says {name!r}.", f"Expected {OWN[name]}.", f"take {name!r} out of config."
        )
    known = {
        name for name in dir(settings) if not name.startswith("_") and not callable(getattr(type(settings), name, None))
    }
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ParameterError.unknown(f"rllib trainer: config of {type(settings).__name__}", unknown, known)
    try:
        with _quiet():
            if env is not None:
                settings.environment(_named(env))
            if "model_config" in given:
                settings.rl_module(model_config=given.pop("model_config"))
            if "rl_module_spec" in given:
                settings.rl_module(rl_module_spec=given.pop("rl_module_spec"))
            settings.update_from_dict(given)
            settings.debugging(log_level="ERROR")
            settings.validate()
    except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ParameterError(
            f"rllib trainer: RLlib refuses the settings: {reason}",
            f"Got {shown(given)}.",
            "see the documentation of its AlgorithmConfig.",
        ) from error
    _refuse_unseen(settings)
    return settings


def shown(given: Mapping[str, Any]) -> str:
    """Settings for a message."""
    text = repr(dict(given))
    return text if len(text) <= 300 else text[:297] + "..."


def _refuse_unseen(settings: Any) -> None:
    """Raise ParameterError on settings that make a policy more than its module."""
    memory = [name for name in ("use_lstm", "use_attention") if _option(settings.model_config, name)]
    problems = {
        "it uses RLlib's old API": not settings.enable_rl_module_and_learner,
        "it has several agents": settings.is_multi_agent,
        f"its module has a memory ({', '.join(memory)})": bool(memory),
        "it has connectors of its own": any(getattr(settings, name, None) is not None for name in UNSEEN),
        "no environment is given": settings.env is None,
    }
    for problem in (text for text, found in problems.items() if found):
        raise ParameterError(
            f"rllib trainer: {problem}.",
            "Expected one agent in an environment, whose policy is a module of the observation alone: it is saved as data.",
            "leave this out; what the policy must see belongs into the environment's observation.",
        )


def _option(config: Any, name: str) -> Any:
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)


def _named(env: Any) -> Any:
    """An environment as RLlib takes it: a function goes by a name."""
    if isinstance(env, (str, type)) or not callable(env):
        return env
    name = f"{getattr(env, '__qualname__', type(env).__name__)}-{id(env):x}"
    register_env(name, env)
    return name


def _resources(asked: Mapping[str, float]) -> dict[str, Any]:
    rest = {name: amount for name, amount in asked.items() if name not in ("CPU", "GPU")}
    found: dict[str, Any] = {"custom_resources_per_env_runner": rest} if rest else {}
    for name, key in (("CPU", "num_cpus_per_env_runner"), ("GPU", "num_gpus_per_env_runner")):
        found |= {key: asked[name]} if name in asked else {}
    return found


def _world(settings: Any) -> Any:
    """The environment, as RLlib will make it. Raises ParameterError when it cannot be made."""
    env, options = settings.env, dict(settings.env_config)
    try:
        if isinstance(env, str) and _global_registry.contains(ENV_CREATOR, env):
            return _global_registry.get(ENV_CREATOR, env)(options)
        if callable(env):
            return env(options)
        return gymnasium.make(env, **options)
    except Exception as error:  # whatever an environment raises
        raise ParameterError(
            f"rllib trainer: the environment {env!r} cannot be made: {type(error).__name__}: {str(error)[:200]}",
            "Expected the name of an environment of Gymnasium, a class, or a function of its configuration.",
            "install what it needs, and see env_config in config.",
        ) from error


# -- the training ------------------------------------------------------------------------------------------------------


class Telling(SingleAgentEnvRunner):
    """Plays in an environment, and leaves word of what went wrong there: RLlib itself only ends the process."""

    def apply(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        def told(runner: Any, *given: Any, **more: Any) -> Any:
            try:
                return func(runner, *given, **more)
            except Exception as error:
                cause = _first_cause(error)
                internal_kv._internal_kv_put(self.config.rayline_word, f"{type(cause).__name__}: {cause}"[:2000])
                raise

        return super().apply(told, *args, **kwargs)


@contextlib.contextmanager
def _telling(settings: Any) -> Iterator[None]:
    """What goes wrong in an environment, here or on a worker, is the error that the user sees."""
    settings.rayline_word = f"rayline-rllib-{secrets.token_hex(8)}"
    if settings.env_runner_cls is None:
        settings.env_runners(env_runner_cls=Telling)
    try:
        yield
    except RaylineError:
        raise
    except Exception as error:
        cause = _first_cause(error)
        left = internal_kv._internal_kv_get(settings.rayline_word)
        on_worker = f" on a worker: {left.decode()}" if left else f": {type(cause).__name__}: {cause}"
        raise TrainingError(
            f"train.fit: rllib failed{on_worker}",
            "Expected an environment that goes on until its episodes end, and workers that stay.",
            "the error above is its own; max_failures=1 replaces a lost worker.",
        ) from cause
    finally:
        internal_kv._internal_kv_del(settings.rayline_word)


def _first_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


@contextlib.contextmanager
def _built(settings: Any) -> Iterator[Any]:
    running = settings.build_algo()
    try:
        yield running
    finally:
        running.stop()


def _metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """The learning curve. Before the first episode has ended, its return is NaN."""
    episodes, learned = result.get("env_runners", {}), result.get("learners", {}).get("default_policy", {})
    found = {
        name: episodes.get(name, math.nan)
        for name in ("episode_return_mean", "episode_return_min", "episode_return_max")
    }
    found |= {"episode_len_mean": episodes.get("episode_len_mean", math.nan)}
    found |= {name: value for name, value in learned.items() if name.endswith("loss") or name == "entropy"}
    tested = result.get("evaluation", {}).get("env_runners", {}).get("episode_return_mean")
    found |= {} if tested is None else {"test-episode_return_mean": tested}
    found["env_steps"] = result.get(
        "num_env_steps_sampled_lifetime", episodes.get("num_env_steps_sampled_lifetime", math.nan)
    )
    return {name: float(value) for name, value in found.items()}


def _iteration(running: Any, steps: float) -> dict[str, float]:
    """The metrics of one iteration; one in which nothing was played, because a lost worker comes back, is made again."""
    until = time.monotonic() + RESTART_S
    found = _metrics(running.train())
    while found["env_steps"] <= steps and time.monotonic() < until:
        time.sleep(POLL_S)
        found = _metrics(running.train())
    return found


def _enough(stop: Mapping[str, float], found: Mapping[str, float]) -> bool:
    unknown = [name for name in stop if name not in found]
    if unknown:
        raise ParameterError.unknown("rllib trainer: stop", unknown, found)
    return any(found[name] >= bound for name, bound in stop.items())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """RLlib warns of its own settings, and of the name under which it registers every environment again; what is wrong
    with the user's comes as an error."""
    loggers = [logging.getLogger(name) for name in ("ray.rllib", "ray.tune", "ray._common", "ray.util")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*Overriding environment rllib-")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
