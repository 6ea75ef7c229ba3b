"""RLlib's settings and environments, built from the trainer's arguments and checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.registry import ALGORITHMS
from ray.tune.registry import register_env

from rayline.compat.ray_tune import has_connectors, registered_environment
from rayline.core.errors import ParameterError, first_line
from rayline.frameworks import rllib_modules as modules

TRAINER_SETTINGS = {
    "num_env_runners": "the trainer's num_workers",
    "num_cpus_per_env_runner": "the trainer's resources_per_worker",
    "env": "the argument env",
    "framework_str": "nothing: policies are PyTorch modules",
    "framework": "nothing: policies are PyTorch modules",
}
"""Settings of RLlib that the trainer sets, and the argument for each."""


def settings_of(algorithm: Any, env: Any, config: Mapping[str, Any] | None) -> Any:
    """Return RLlib's configuration. Raises ParameterError on unknown settings, and on those that cannot be saved."""
    if isinstance(algorithm, AlgorithmConfig):
        settings = algorithm.copy(copy_frozen=False)
    elif isinstance(algorithm, str) and algorithm in modules.ALGORITHMS:
        settings = ALGORITHMS[algorithm]()[1]
    else:
        raise ParameterError.value(
            "algorithm", f"one of {list(modules.ALGORITHMS)}, or an AlgorithmConfig", algorithm, where="rllib trainer"
        )
    config_values = dict(config or {})
    for name in TRAINER_SETTINGS.keys() & config_values.keys():
        raise ParameterError(
            f"rllib trainer: config sets {name!r}.", f"Expected {TRAINER_SETTINGS[name]}.", "remove it from config."
        )
    known = {
        name for name in dir(settings) if not name.startswith("_") and not callable(getattr(type(settings), name, None))
    }
    unknown = [name for name in config_values if name not in known]
    if unknown:
        raise ParameterError.unknown(unknown, known, where=f"rllib trainer: config of {type(settings).__name__}")
    try:
        with modules.quiet():
            if env is not None:
                settings.environment(_named(env))
            if "model_config" in config_values:
                settings.rl_module(model_config=config_values.pop("model_config"))
            if "rl_module_spec" in config_values:
                settings.rl_module(rl_module_spec=config_values.pop("rl_module_spec"))
            settings.update_from_dict(config_values)
            settings.debugging(log_level="ERROR")
            settings.validate()
    except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ParameterError(
            f"rllib trainer: RLlib refuses the settings: {reason}",
            f"Got {shown(config_values)}.",
            "see the documentation of its AlgorithmConfig.",
        ) from error
    _refuse_unseen(settings)
    return settings


def shown(settings: Mapping[str, Any]) -> str:
    """Format settings for a message."""
    text = repr(dict(settings))
    return text if len(text) <= 300 else text[:297] + "..."


def _refuse_unseen(settings: Any) -> None:
    """Raise ParameterError on settings that a saved module cannot represent."""
    memory = [name for name in ("use_lstm", "use_attention") if _option(settings.model_config, name)]
    problems = {
        "it uses RLlib's old API": not settings.enable_rl_module_and_learner,
        "it has several agents": settings.is_multi_agent,
        f"its module has a recurrent state ({', '.join(memory)})": bool(memory),
        "it has custom connectors": has_connectors(settings),
        "no environment is given": settings.env is None,
    }
    for problem in (text for text, applies in problems.items() if applies):
        raise ParameterError(
            f"rllib trainer: {problem}.",
            "Expected one agent in an environment, whose policy is a module of the observation alone: it is saved as data.",
            "leave this out; include what the policy needs in the environment's observation.",
        )


def _option(config: Any, name: str) -> Any:
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)


def _named(env: Any) -> Any:
    """Return an environment in the form that RLlib takes: a function is registered under a name."""
    if isinstance(env, (str, type)) or not callable(env):
        return env
    name = f"{getattr(env, '__qualname__', type(env).__name__)}-{id(env):x}"
    register_env(name, env)
    return name


def resources_of(resources: Mapping[str, float]) -> dict[str, Any]:
    rest = {name: amount for name, amount in resources.items() if name not in ("CPU", "GPU")}
    settings: dict[str, Any] = {"custom_resources_per_env_runner": rest} if rest else {}
    for name, key in (("CPU", "num_cpus_per_env_runner"), ("GPU", "num_gpus_per_env_runner")):
        settings |= {key: resources[name]} if name in resources else {}
    return settings


def world_of(settings: Any) -> Any:
    """Build the environment as RLlib does. Raises ParameterError when it cannot be built."""
    env, options = settings.env, dict(settings.env_config)
    try:
        if isinstance(env, str) and (registered := registered_environment(env)) is not None:
            return registered(options)
        if callable(env):
            return env(options)
        return gymnasium.make(env, **options)
    except Exception as error:  # an environment may raise anything
        raise ParameterError(
            f"rllib trainer: the environment {env!r} cannot be made: {type(error).__name__}: {first_line(error)}",
            "Expected the name of an environment of Gymnasium, a class, or a function of its configuration.",
            "install what it needs, and see env_config in config.",
        ) from error
