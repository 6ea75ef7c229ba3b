"""RLlib's policies as data: the spaces they live in, how one is built again, and the action that it answers."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl

from rayline.core import strictjson
from rayline.core.errors import ArtifactError, DataError, MissingExtraError, ParameterError
from rayline.core.framework import Array, Features
from rayline.core.schema import value_from_json, value_to_json
from rayline.core.target import Target, Task

try:
    import torch
    from gymnasium.spaces import Box, Discrete
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
    from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
    from safetensors.torch import load_file, save_file
except ImportError as error:
    raise MissingExtraError.of("RLlibTrainer", "ray[rllib]", "rllib") from error

M = TypeVar("M", bound=type)

OBSERVATION, ACTION = "observation", "action"

_PPO = "ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module:DefaultPPOTorchRLModule"

ALGORITHMS: dict[str, str] = {
    "PPO": _PPO,
    "APPO": "ray.rllib.algorithms.appo.torch.default_appo_torch_rl_module:DefaultAPPOTorchRLModule",
    "IMPALA": _PPO,
    "DQN": "ray.rllib.algorithms.dqn.torch.default_dqn_torch_rl_module:DefaultDQNTorchRLModule",
    "SAC": "ray.rllib.algorithms.sac.torch.default_sac_torch_rl_module:DefaultSACTorchRLModule",
}
"""The algorithms, and the module of each that a file may name. Others need data, or a memory."""

_REGISTERED: dict[str, type] = {}

MOST_LAYERS, MOST_UNITS = 1 << 10, 1 << 24


def register_rl_module(cls: M) -> M:
    """Let saved policies of this subclass of TorchRLModule be loaded by `rayline.load` without further ado. Usable as a
    decorator; its name is the id in the file.

    Raises
    ------
    ParameterError
        When it is no TorchRLModule, or has the name of one of RLlib's own.
    """
    if not (isinstance(cls, type) and issubclass(cls, TorchRLModule)) or cls.__name__ in _own():
        raise ParameterError.value(
            "register_rl_module", "the class", "a subclass of TorchRLModule with a name of its own", cls
        )
    _REGISTERED[cls.__name__] = cls
    return cls


def _own() -> dict[str, str]:
    return {place.rpartition(":")[2]: place for place in ALGORITHMS.values()}


def is_policy(model: Any) -> bool:
    """Whether this is a policy of RLlib."""
    return isinstance(model, TorchRLModule)


# -- spaces ------------------------------------------------------------------------------------------------------------


def refuse_spaces(observed: Any, acted: Any) -> None:
    """Raise ParameterError on spaces that have no form as columns here."""
    if not isinstance(observed, Box):
        raise ParameterError(
            f"rllib trainer: observations are of {observed}.",
            "Expected a Box: a vector of numbers, or an image.",
            "flatten them in the environment (gymnasium.wrappers.FlattenObservation).",
        )
    if not isinstance(acted, Box) and not (isinstance(acted, Discrete) and acted.n > 1 and acted.start == 0):
        raise ParameterError(
            f"rllib trainer: actions are of {acted}.",
            "Expected a Box, or a Discrete space of at least two actions that begin with 0.",
            "map the actions in the environment (gymnasium.ActionWrapper).",
        )


def features(observed: Any) -> pl.Schema:
    """The columns of observations. RLlib's modules compute in float32 whatever the space says."""
    return pl.Schema({OBSERVATION: pl.Array(pl.Float32(), observed.shape) if observed.shape else pl.Float32()})


def target(acted: Any) -> Target:
    """The action as a target: classes of a Discrete space, numbers of a Box."""
    if isinstance(acted, Discrete):
        task = Task.BINARY if acted.n == 2 else Task.MULTICLASS
        return Target((ACTION,), task, (pl.Int64(),), (tuple(range(int(acted.n))),))
    width = math.prod(acted.shape)
    columns = (ACTION,) if width == 1 else tuple(f"{ACTION}_{i}" for i in range(width))
    return Target(columns, Task.REGRESSION, (pl.Float32(),) * width)


def _space_to_json(space: Any) -> dict[str, Any]:
    if isinstance(space, Discrete):
        return {"type": "Discrete", "n": int(space.n)}
    bounds = {name: value_to_json(getattr(space, name).ravel().tolist()) for name in ("low", "high")}
    return {"type": "Box", "shape": list(space.shape), "dtype": str(space.dtype), **bounds}


def _space_from_json(data: Any) -> Any:
    if data["type"] == "Discrete":
        return Discrete(int(data["n"]))
    shape, dtype = tuple(int(n) for n in data["shape"]), np.dtype(str(data["dtype"]))
    if dtype.kind not in "fiu" or data["type"] != "Box":
        raise ValueError(f"a space of {data['type']} {dtype}")
    low, high = (np.array(value_from_json(data[name]), dtype=dtype).reshape(shape) for name in ("low", "high"))
    return Box(low, high, shape, dtype.type)


# -- policies ----------------------------------------------------------------------------------------------------------


def policy(running: Any) -> Any:
    """What an algorithm has learned, as a module of its own that only acts."""
    acting = running.env_runner.module
    made = _build(type(acting), acting.observation_space, acting.action_space, _plain(acting.model_config))
    name = "learner/rl_module/default_policy"
    state = running.learner_group.get_state(components=name, inference_only=True)
    for part in name.split("/"):
        state = state[part]
    made.set_state(state)
    return _described(made, normalizes=bool(running.config.normalize_actions), clips=bool(running.config.clip_actions))


def refuse_memory(module: Any) -> None:
    """Raise ParameterError when a module needs more than the observation."""
    if module.is_stateful():
        raise ParameterError(
            f"rllib trainer: {type(module).__name__} has a memory.",
            "Expected a policy of the observation alone.",
            "put what it must remember into the observation.",
        )


def _build(cls: type, observed: Any, acted: Any, config: Mapping[str, Any]) -> Any:
    made: Any = cls(observation_space=observed, action_space=acted, inference_only=True, model_config=dict(config))
    return made.eval()


def _plain(config: Any) -> dict[str, Any]:
    return dataclasses.asdict(config) if dataclasses.is_dataclass(config) else dict(config or {})  # type: ignore[arg-type]


def _described(module: Any, *, normalizes: bool, clips: bool) -> Any:
    module.rayline_actions = {"normalizes": normalizes, "clips": clips}
    return module


def _actions_of(module: Any) -> dict[str, bool]:
    """How the numbers of a module become those of the environment; RLlib's own defaults for a stranger."""
    return getattr(module, "rayline_actions", {"normalizes": True, "clips": False})


def actions(module: Any, rows: Features) -> Array:
    """Probabilities of a Discrete space's actions (or the actions, where there is no distribution), numbers of a Box.

    Raises DataError when an observation is missing or not finite.
    """
    shape = module.observation_space.shape
    observations = rows.matrix(np.float32).reshape(rows.n_rows, *shape)
    if not np.isfinite(observations).all():
        raise DataError(
            "The policy is asked with an observation that is missing or not finite.",
            "Expected finite numbers.",
            "leave these rows out.",
        )
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    with torch.inference_mode():
        given = torch.from_numpy(np.require(observations, requirements="W")).to(device)
        answer = module.forward_inference({"obs": given})
        if isinstance(module.action_space, Discrete):
            if "action_dist_inputs" not in answer:
                return np.asarray(answer["actions"].cpu(), dtype=np.int64)
            return np.asarray(answer["action_dist_inputs"].double().softmax(dim=1).cpu())
        if "actions" in answer:
            chosen = answer["actions"]
        else:
            kind = module.get_inference_action_dist_cls()
            chosen = kind.from_logits(answer["action_dist_inputs"]).to_deterministic().sample()
    found = _of_the_environment(module, np.asarray(chosen.cpu(), dtype=np.float32)).reshape(rows.n_rows, -1)
    return found[:, 0] if found.shape[1] == 1 else found


def _of_the_environment(module: Any, found: Array) -> Array:
    """From the numbers of a module to those of a Box, as RLlib's connectors do it."""
    space, how = module.action_space, _actions_of(module)
    found = found.reshape(len(found), *space.shape)
    bounded = bool(np.all(space.bounded_below) and np.all(space.bounded_above))
    if how["normalizes"]:
        return (
            np.clip(space.low + (found + 1.0) * (space.high - space.low) / 2.0, space.low, space.high)
            if bounded
            else found
        )
    return np.clip(found, space.low, space.high) if how["clips"] else found


# -- files -------------------------------------------------------------------------------------------------------------


def save(module: Any, directory: Path) -> None:
    """`policy.json` and `policy.safetensors`: the class by its id, spaces and settings, and numbers; no code.

    Raises ArtifactError when the module's settings hold what is no data, or it was built by a catalog of its own.
    """
    catalog = getattr(module, "catalog", None)
    problem = ""
    try:
        config = strictjson.dumps(_plain(module.model_config))
    except (TypeError, ValueError) as error:
        problem = f"its model_config holds {error}"
    if catalog is not None and not type(catalog).__module__.startswith("ray.rllib.algorithms."):
        problem = f"it was built by {type(catalog).__name__}, a catalog of its own"
    if problem:
        raise ArtifactError(
            f"The policy {type(module).__name__} cannot be saved as data: {problem}.",
            "Expected plain values, and a class that builds itself of them.",
            "write the layers into a subclass of TorchRLModule, and register it (register_rl_module).",
        )
    about = {
        "module": type(module).__name__,
        "observation_space": _space_to_json(module.observation_space),
        "action_space": _space_to_json(module.action_space),
        "model_config": strictjson.loads(config, "model_config"),
        **_actions_of(module),
    }
    (directory / "policy.json").write_bytes(strictjson.dumps(about, indent=1))
    numbers = {name: value.detach().cpu().contiguous().clone() for name, value in module.state_dict().items()}
    save_file(numbers, str(directory / "policy.safetensors"))


def load(directory: Path, cls: Any = None) -> Any:
    """The policy of such files, of the class `cls` or, without one, of what stands under the id in the file.

    Raises
    ------
    ArtifactError
        When no class is known under the id, or the numbers do not fit into it.
    """
    for name in ("policy.json", "policy.safetensors"):
        if not (directory / name).is_file():
            raise ArtifactError("The saved policy is incomplete.", f"Expected a file {name}.", "save it again.")
    about = strictjson.loads((directory / "policy.json").read_bytes(), "policy.json")
    name = str(about.get("module", "")) if isinstance(about, dict) else ""
    found = cls or _REGISTERED.get(name) or _loaded(name)
    if found is None:
        raise ArtifactError(
            f"The saved policy is of the class {name[:80]!r}, which is not known here.",
            f"Expected one of {sorted({*_own(), *_REGISTERED})}: no code is loaded from a file.",
            "register its class first (rayline.frameworks.rllib.register_rl_module), or pass it: rayline.load(path, module=Policy).",
        )
    try:
        observed, acted = _space_from_json(about["observation_space"]), _space_from_json(about["action_space"])
        refuse_spaces(observed, acted)
        numbers = load_file(str(directory / "policy.safetensors"))
        if name in _own() and cls is None:
            _compare(found, observed, acted, about["model_config"], numbers)
        made = _build(found, observed, acted, about["model_config"])
        made.load_state_dict(numbers, strict=True)
        return _described(made, normalizes=bool(about["normalizes"]), clips=bool(about["clips"]))
    except ArtifactError:
        raise
    except Exception as error:  # whatever a class says to settings that are not its own
        reason = (str(error).strip().splitlines() or [""])[0][:300]
        raise ArtifactError(
            f"The saved policy does not fit {found.__name__}: {type(error).__name__}: {reason}",
            "Expected the class that it was trained with.",
            "pass the right one: rayline.load(path, module=Policy).",
        ) from error


def _loaded(name: str) -> Any:
    place = _own().get(name)
    if place is None:
        return None
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _compare(cls: type, observed: Any, acted: Any, config: Any, numbers: Mapping[str, Any]) -> None:
    """RLlib's own modules are first built without memory: sizes from a file cost nothing before they are known to be true."""
    known = {f.name for f in dataclasses.fields(DefaultModelConfig)} | set(_EXTRA)
    unknown = [name for name in config if name not in known]
    sizes = [int(n) for value in config.values() if isinstance(value, list) for n in _whole_numbers(value)]
    if unknown or len(sizes) > MOST_LAYERS or sum(map(abs, sizes)) > MOST_UNITS:
        raise ArtifactError(
            "policy.json names settings that Rayline does not write.", f"Got {unknown[:8]}.", "save it again."
        )
    with torch.device("meta"):
        bare = _build(cls, observed, acted, config)
    if {k: tuple(v.shape) for k, v in bare.state_dict().items()} != {k: tuple(v.shape) for k, v in numbers.items()}:
        raise ArtifactError("policy.json names other layers than the saved numbers have.", "", "save it again.")


_EXTRA = (
    "num_atoms", "v_min", "v_max", "dueling", "double_q", "epsilon", "std_init", "twin_q", "clip_log_std",
)  # fmt: skip
"""Settings that algorithms add to those of every module."""


def _whole_numbers(value: Any) -> Iterator[int]:
    for inner in value if isinstance(value, list) else [value]:
        if isinstance(inner, list):
            yield from _whole_numbers(inner)
        elif isinstance(inner, int):
            yield inner


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    """So many threads of PyTorch for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
