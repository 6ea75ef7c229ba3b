"""RLlib: `train.RLlibTrainer("PPO", "CartPole-v1")` generates its own data, in an environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rayline.core import registry
from rayline.core.arguments import integer
from rayline.core.errors import ParameterError, at
from rayline.core.features import Array, Features
from rayline.core.framework import Arguments, EnvironmentSpec, Framework, ModelInfo, TrainContext
from rayline.device import is_pretended
from rayline.frameworks import rllib_file
from rayline.frameworks import rllib_modules as modules
from rayline.frameworks.rllib_modules import register_rl_module
from rayline.frameworks.rllib_settings import resources_of, settings_of, world_of
from rayline.frameworks.rllib_training import built_algorithm, enough, environment_errors, one_iteration

__all__ = ["RLlib", "register_rl_module"]

EXAMPLES = 5
"""Number of observations sampled for documentation and for the golden rows of a saved policy."""


class RLlib(Framework):
    """The adapter of `train.RLlibTrainer`, which describes the arguments."""

    name = "rllib"
    package = "ray[rllib]"
    distributed = True
    fit_driver = "environment"
    trains_on_gpu = True
    predicts_on_gpu = True
    iterations = "iterations"

    def train(
        self,
        context: TrainContext,
        algorithm: Any = "PPO",
        env: Any = None,
        config: Mapping[str, Any] | None = None,
        *,
        iterations: int = 10,
        stop: Mapping[str, float] | None = None,
    ) -> Any:
        settings = settings_of(algorithm, env, config)
        settings.env_runners(num_env_runners=context.num_workers, **resources_of(context.resources_per_worker))
        settings.fault_tolerance(
            restart_failed_env_runners=context.max_failures > 0, max_num_env_runner_restarts=context.max_failures
        )
        if settings.seed is None:
            settings.debugging(seed=context.seed)
        if context.use_gpu and not is_pretended():
            # With workers on Ray the learner is an actor, to which Ray gives a GPU; otherwise this process is the learner.
            settings.learners(
                num_gpus_per_learner=settings.num_gpus_per_learner or 1,
                num_learners=settings.num_learners or int(context.num_workers > 0),
            )
        registry.engine("ray").connect()
        with (
            modules.quiet(),
            modules.threads(context.n_threads),
            environment_errors(settings),
            built_algorithm(settings) as running,
        ):
            modules.refuse_memory(running.env_runner.module)
            metrics: dict[str, float] = {}
            for iteration in range(iterations):
                metrics = one_iteration(running, metrics.get("env_steps", 0.0))
                context.checkpoint(iteration, lambda directory: self.save(modules.policy(running), directory))
                if context.report(iteration, metrics) or enough(stop or {}, metrics):
                    break
            return modules.policy(running)

    def environment_spec(
        self, algorithm: Any = "PPO", env: Any = None, config: Mapping[str, Any] | None = None, **options: Any
    ) -> EnvironmentSpec:
        settings = settings_of(algorithm, env, config)
        world = world_of(settings)
        try:
            observation_space, action_space = world.observation_space, world.action_space
            modules.refuse_spaces(observation_space, action_space)
            seen = [world.reset(seed=0)[0]]
            action_space.seed(0)
            while len(seen) < EXAMPLES:
                observation, _, terminated, truncated, _ = world.step(action_space.sample())
                seen.append(world.reset()[0] if terminated or truncated else observation)
        finally:
            world.close()
        features = modules.features(observation_space)
        rows = pl.DataFrame({modules.OBSERVATION: np.stack(seen).astype(np.float32)}, schema=features)
        return EnvironmentSpec(features, modules.target(action_space), rows, "episode_return_mean")

    def predict(self, model: Any, features: Features) -> Array:
        return modules.actions(model, features)

    def without_gpu(self) -> str:
        return modules.without_gpu()

    def place(self, model: Any, device: Any) -> Any:
        return modules.placed(model, device)

    def save(self, model: Any, directory: Path) -> None:
        rllib_file.save(model, directory)

    def load(self, directory: Path, *, module: Any = None) -> Any:
        """Load a policy; `module` is the class of a custom one: `rayline.load(path, module=Policy)`."""
        return rllib_file.load(directory, module)

    def load_options(self, model: Any) -> dict[str, Any]:
        return {"module": type(model)}

    def owns(self, model: Any) -> bool:
        return modules.is_policy(model)

    def inspect(self, model: Any) -> ModelInfo:
        about = modules.target(model.action_space)
        n_classes = max((len(c) for c in about.classes), default=2)
        features = modules.features(model.observation_space)
        return ModelInfo(about.task, n_classes, len(about.columns), list(features), features, about)

    def check(self, *args: Any, **kwargs: Any) -> None:
        super().check(*args, **kwargs)
        arguments = {**dict(zip(("algorithm", "env", "config"), args, strict=False)), **kwargs}
        iterations, stop = arguments.get("iterations", 10), arguments.get("stop")
        with at("rllib trainer"):
            integer("iterations", iterations)
        if stop is not None and not (
            isinstance(stop, Mapping) and all(isinstance(v, (int, float)) for v in stop.values())
        ):
            raise ParameterError.value("stop", 'a dict like {"episode_return_mean": 195}', stop, where="rllib trainer")
        settings = settings_of(arguments.get("algorithm", "PPO"), arguments.get("env"), arguments.get("config"))
        world_of(settings).close()

    def configure(self, args: Sequence[Any], kwargs: Mapping[str, Any], changes: Mapping[str, Any]) -> Arguments:
        arguments = {**dict(zip(("algorithm", "env", "config"), args, strict=False)), **kwargs}
        trainer_changes = {
            name: value for name, value in changes.items() if name in ("algorithm", "env", "iterations", "stop")
        }
        config = {name: value for name, value in changes.items() if name not in trainer_changes}
        return (), {**arguments, **trainer_changes, "config": {**(arguments.get("config") or {}), **config}}
