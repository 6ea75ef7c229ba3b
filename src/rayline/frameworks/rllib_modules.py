"""RLlib's policies as data: their spaces, how to rebuild one, and the actions it returns."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import polars as pl
import torch
from gymnasium.spaces import Box, Discrete
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule

from rayline.core.errors import DataError, ParameterError
from rayline.core.features import Array, Features
from rayline.core.target import Target, Task
from rayline.device import in_batches
from rayline.frameworks import torch_device
from rayline.frameworks.torch_device import placed, without_gpu

M = TypeVar("M", bound=type)

__all__ = ["placed", "without_gpu"]

BATCH_ROWS = 16384
"""Observations per batch of prediction."""

OBSERVATION, ACTION = "observation", "action"

_PPO = "ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module:DefaultPPOTorchRLModule"

ALGORITHMS: dict[str, str] = {
    "PPO": _PPO,
    "APPO": "ray.rllib.algorithms.appo.torch.default_appo_torch_rl_module:DefaultAPPOTorchRLModule",
    "IMPALA": _PPO,
    "DQN": "ray.rllib.algorithms.dqn.torch.default_dqn_torch_rl_module:DefaultDQNTorchRLModule",
    "SAC": "ray.rllib.algorithms.sac.torch.default_sac_torch_rl_module:DefaultSACTorchRLModule",
}
"""The supported algorithms, and the module of each that a file may name. Others need data or memory."""

registered: dict[str, type] = {}


def register_rl_module(cls: M) -> M:
    """Register a subclass of TorchRLModule, so that `rayline.load` loads its saved policies without `module=`. Usable as a
    decorator; its name is the id in the file.

    Raises
    ------
    ParameterError
        When it is not a TorchRLModule, or has the name of one of RLlib's own.
    """
    if not (isinstance(cls, type) and issubclass(cls, TorchRLModule)) or cls.__name__ in known_classes():
        raise ParameterError.value(
            "the class", "a subclass of TorchRLModule with a unique name", cls, where="register_rl_module"
        )
    registered[cls.__name__] = cls
    return cls


def known_classes() -> dict[str, str]:
    return {place.rpartition(":")[2]: place for place in ALGORITHMS.values()}


def is_policy(model: Any) -> bool:
    """Return whether this is a policy of RLlib."""
    return isinstance(model, TorchRLModule)


# -- spaces ------------------------------------------------------------------------------------------------------------


def refuse_spaces(observation_space: Any, action_space: Any) -> None:
    """Raise ParameterError on spaces that cannot be represented as columns."""
    if not isinstance(observation_space, Box):
        raise ParameterError(
            f"rllib trainer: observations are of {observation_space}.",
            "Expected a Box: a vector of numbers, or an image.",
            "flatten them in the environment (gymnasium.wrappers.FlattenObservation).",
        )
    if not isinstance(action_space, Box) and not (
        isinstance(action_space, Discrete) and action_space.n > 1 and action_space.start == 0
    ):
        raise ParameterError(
            f"rllib trainer: actions are of {action_space}.",
            "Expected a Box, or a Discrete space of at least two actions that begin with 0.",
            "map the actions in the environment (gymnasium.ActionWrapper).",
        )


def features(observation_space: Any) -> pl.Schema:
    """Return the columns of observations. RLlib's modules compute in float32 for every dtype of the space."""
    return pl.Schema(
        {OBSERVATION: pl.Array(pl.Float32(), observation_space.shape) if observation_space.shape else pl.Float32()}
    )


def target(action_space: Any) -> Target:
    """Return the action as a target: classes of a Discrete space, numbers of a Box."""
    if isinstance(action_space, Discrete):
        task = Task.BINARY if action_space.n == 2 else Task.MULTICLASS
        return Target((ACTION,), task, (pl.Int64(),), (tuple(range(int(action_space.n))),))
    width = math.prod(action_space.shape)
    columns = (ACTION,) if width == 1 else tuple(f"{ACTION}_{i}" for i in range(width))
    return Target(columns, Task.REGRESSION, (pl.Float32(),) * width)


# -- policies ----------------------------------------------------------------------------------------------------------


def policy(running: Any) -> Any:
    """Return the learned policy as a separate module for inference only."""
    acting = running.env_runner.module
    copied = build(type(acting), acting.observation_space, acting.action_space, plain(acting.model_config))
    name = "learner/rl_module/default_policy"
    state = running.learner_group.get_state(components=name, inference_only=True)
    for part in name.split("/"):
        state = state[part]
    copied.set_state(state)
    return described(copied, normalizes=bool(running.config.normalize_actions), clips=bool(running.config.clip_actions))


def refuse_memory(module: Any) -> None:
    """Raise ParameterError when a module needs more than the observation."""
    if module.is_stateful():
        raise ParameterError(
            f"rllib trainer: {type(module).__name__} has a recurrent state.",
            "Expected a policy of the observation alone.",
            "include its state in the observation.",
        )


def build(cls: type, observation_space: Any, action_space: Any, config: Mapping[str, Any]) -> Any:
    with quiet():
        module: Any = cls(
            observation_space=observation_space,
            action_space=action_space,
            inference_only=True,
            model_config=dict(config),
        )
    return module.eval()


def plain(config: Any) -> dict[str, Any]:
    return dataclasses.asdict(config) if dataclasses.is_dataclass(config) else dict(config or {})  # type: ignore[arg-type]


def described(module: Any, *, normalizes: bool, clips: bool) -> Any:
    module.rayline_actions = {"normalizes": normalizes, "clips": clips}
    return module


def actions_of(module: Any) -> dict[str, bool]:
    """Return how outputs of a module are converted to actions of the environment; RLlib's defaults for an unknown module."""
    return getattr(module, "rayline_actions", {"normalizes": True, "clips": False})


def actions(module: Any, rows: Features) -> Array:
    """Return probabilities of a Discrete space's actions (or the actions, where there is no distribution), numbers of a Box.

    Raises DataError when an observation is missing or not finite.
    """
    shape = module.observation_space.shape
    observations = rows.matrix(np.float32).reshape(rows.n_rows, *shape)
    if not np.isfinite(observations).all():
        raise DataError(
            "The policy got an observation that is missing or not finite.",
            "Expected finite numbers.",
            "leave these rows out.",
        )
    device = torch_device.of(module)
    feed = torch_device.Feed(device)
    tensor = torch.from_numpy(np.require(observations, requirements="W"))
    with torch.inference_mode():
        parts = in_batches(
            rows.n_rows, BATCH_ROWS, lambda part: _answer(module, feed(tensor[part])),
            device=device, model=module, model_bytes=lambda: torch_device.size_bytes(module),
        )  # fmt: skip
        actions_: Array = np.asarray(feed.fetch(torch.cat(parts)))
    if isinstance(module.action_space, Discrete):
        return actions_
    actions_ = _of_the_environment(module, actions_.astype(np.float32)).reshape(rows.n_rows, -1)
    return actions_[:, 0] if actions_.shape[1] == 1 else actions_


def _answer(module: Any, observations: Any) -> Any:
    """Return probabilities, or actions, of observations on the module's device."""
    answer = module.forward_inference({"obs": observations})
    if isinstance(module.action_space, Discrete):
        if "action_dist_inputs" not in answer:
            return answer["actions"].long()
        return answer["action_dist_inputs"].double().softmax(dim=1)
    if "actions" in answer:
        return answer["actions"]
    kind = module.get_inference_action_dist_cls()
    return kind.from_logits(answer["action_dist_inputs"]).to_deterministic().sample()


def _of_the_environment(module: Any, actions: Array) -> Array:
    """Convert outputs of a module to actions of a Box, as RLlib's connectors do."""
    space, how = module.action_space, actions_of(module)
    actions = actions.reshape(len(actions), *space.shape)
    bounded = bool(np.all(space.bounded_below) and np.all(space.bounded_above))
    if how["normalizes"]:
        return (
            np.clip(space.low + (actions + 1.0) * (space.high - space.low) / 2.0, space.low, space.high)
            if bounded
            else actions
        )
    return np.clip(actions, space.low, space.high) if how["clips"] else actions


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    """Limit PyTorch to this number of threads in the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence RLlib: it warns of settings that it makes itself, and of re-registered environments; mistakes in the user's
    settings are raised as errors."""
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
