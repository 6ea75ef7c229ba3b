"""Save and load RLlib's policies: the class by its id, spaces and settings as JSON, numbers as safetensors; no code."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from safetensors.torch import load_file, save_file

from rayline.core import strict_json
from rayline.core.errors import ArtifactError
from rayline.core.json_values import value_from_json, value_to_json
from rayline.frameworks import rllib_modules as modules
from rayline.frameworks.verify import module_size, policy


def save(module: Any, directory: Path) -> None:
    """Write `policy.json` and `policy.safetensors`: the class by its id, spaces and settings, and numbers; no code.

    Raises ArtifactError when the module's settings hold more than plain data, or a custom catalog built it.
    """
    catalog = getattr(module, "catalog", None)
    problem = ""
    try:
        config = strict_json.dumps(modules.plain(module.model_config))
    except (TypeError, ValueError) as error:
        problem = f"its model_config holds {error}"
    if catalog is not None and not type(catalog).__module__.startswith("ray.rllib.algorithms."):
        problem = f"it was built by {type(catalog).__name__}, a custom catalog"
    if problem:
        raise ArtifactError(
            f"The policy {type(module).__name__} cannot be saved as data: {problem}.",
            "Expected plain values, and a class that can be built from them.",
            "write the layers into a subclass of TorchRLModule, and register it (register_rl_module).",
        )
    about = {
        "module": type(module).__name__,
        "observation_space": _space_to_json(module.observation_space),
        "action_space": _space_to_json(module.action_space),
        "model_config": strict_json.loads(config, "model_config"),
        **modules.actions_of(module),
    }
    (directory / "policy.json").write_bytes(strict_json.dumps(about, indent=1))
    numbers = {name: value.detach().cpu().contiguous().clone() for name, value in module.state_dict().items()}
    save_file(numbers, str(directory / "policy.safetensors"))


def load(directory: Path, cls: Any = None) -> Any:
    """Return the policy of such files, of the class `cls` or, without one, of the class registered under the id in the file.

    Raises ArtifactError when no class is known under the id, or the saved tensors do not match it.
    """
    about, shapes = policy.check(directory)
    name = str(about.get("module", "")) if isinstance(about, dict) else ""
    policy_class = cls or modules.registered.get(name) or _loaded(name)
    if policy_class is None:
        raise ArtifactError(
            f"The saved policy is of the class {name[:80]!r}, which is not known here.",
            f"Expected one of {sorted({*modules.known_classes(), *modules.registered})}: no code is loaded from a file.",
            "register its class first (rayline.frameworks.rllib.register_rl_module), or pass it: rayline.load(path, module=Policy).",
        )
    try:
        observation_space, action_space = (
            _space_from_json(about["observation_space"]),
            _space_from_json(about["action_space"]),
        )
        modules.refuse_spaces(observation_space, action_space)
        config = about["model_config"]
        exact = name in modules.known_classes() and cls is None
        if exact:
            policy.check_settings(config, {field.name for field in dataclasses.fields(DefaultModelConfig)})
        module = module_size.built_within_limits(
            lambda: modules.build(policy_class, observation_space, action_space, config),
            shapes,
            "policy.json",
            exact=exact,
        )
        module.load_state_dict(load_file(str(directory / "policy.safetensors")), strict=True)
        return modules.described(module, normalizes=bool(about["normalizes"]), clips=bool(about["clips"]))
    except ArtifactError:
        raise
    except Exception as error:  # a class may raise anything about wrong settings
        reason = (str(error).strip().splitlines() or [""])[0][:300]
        raise ArtifactError(
            f"The saved policy does not fit {policy_class.__name__}: {type(error).__name__}: {reason}",
            "Expected the class that it was trained with.",
            "pass the right one: rayline.load(path, module=Policy).",
        ) from error


def _loaded(name: str) -> Any:
    place = modules.known_classes().get(name)
    if place is None:
        return None
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


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
