"""PyTorch modules as files: numbers as safetensors, the id of the module and its arguments as JSON, no code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model

from rayline.core import strict_json
from rayline.core.errors import ArtifactError, first_line
from rayline.frameworks import torch_modules as modules
from rayline.frameworks.verify import module_size, torch_module
from rayline.frameworks.verify.torch_module import ABOUT, NUMBERS


def save(module: Any, directory: Path) -> None:
    """Write `module.safetensors` and `module.json`."""
    save_model(module, str(directory / NUMBERS))
    (directory / ABOUT).write_bytes(strict_json.dumps(modules.recipe(module).to_json(), indent=1))


def load(directory: Path, module: Any = None) -> Any:
    """Return the module of such files, built by `module` (a class, a function, or a module of the same shape) or, without one,
    by the class or function registered under the id in the file.

    Raises ArtifactError when nothing is registered under the id, or the saved tensors do not match the module.
    """
    data, shapes = torch_module.check(directory)
    known = modules.registered_modules()
    name = str(data.get("module", "")) if isinstance(data, dict) else ""
    make = known.get(name) if module is None else module
    if make is None:
        raise ArtifactError(
            f"The saved model is a PyTorch module {f'made by {name!r}, which is not registered here' if name else 'that was given ready made'}.",
            f"Expected one made by {sorted(known)}: no code is loaded from a file.",
            "register its class first (rayline.frameworks.torch.register_module), or pass it: rayline.load(path, module=Net).",
        )
    about = modules.ModuleSpec.from_json(data, None if isinstance(make, torch.nn.Module) else make)
    try:
        loaded = module_size.built_within_limits(
            lambda: modules.build(make, about.kwargs, {})[0], shapes, ABOUT, exact=modules.is_own(make)
        )
        read_numbers(loaded, directory)
    except ArtifactError:
        raise
    except Exception as error:  # a class may raise anything about wrong arguments
        raise ArtifactError(
            f"The saved PyTorch module does not fit {getattr(make, '__name__', type(make).__name__)!r}: {type(error).__name__}: {first_line(error)}",
            "Expected the class that it was trained with.",
            "pass the right one: rayline.load(path, module=Net).",
        ) from error
    return modules.described(loaded.eval(), about)


def read_numbers(module: Any, directory: Path) -> None:
    """Load the saved tensors into a module of the same shape."""
    load_model(module, directory / NUMBERS)
