"""Export a PyTorch module as an ONNX graph: a file without code that needs neither PyTorch nor the module's class."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from typing import Any

from rayline.core.errors import MissingExtraError, ParameterError, first_line, needing
from rayline.core.target import Task
from rayline.frameworks import torch_modules as modules

with needing("to_onnx of a PyTorch module", "torch", "torch"):
    import torch

OPSET = 18


class ScoringModule(torch.nn.Module):
    """A module followed by the output that `rayline.onnx` defines: probabilities of each class, or values."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module, self._about = module, modules.recipe(module)

    def forward(self, matrix: Any) -> Any:
        output = modules.squeezed(self.module(matrix))
        if self._about.task is Task.REGRESSION:
            output = output.exp() if self._about.link == "log" else output
            return output[:, None] if output.ndim == 1 else output
        if output.ndim == 2 and self._about.n_targets == 1:
            return output.softmax(dim=1)
        second = output.sigmoid()
        return torch.stack([1 - second, second], dim=1) if output.ndim == 1 else second


def to_onnx(module: Any, width: int) -> Any:
    """Return the module as an ONNX model with one float32 input of shape (rows, width).

    Raises ParameterError when it takes columns by name, or uses an operation that ONNX does not support.
    """
    if importlib.util.find_spec("onnxscript") is None:
        raise MissingExtraError.of("to_onnx of a PyTorch module", "onnxscript", "onnx")
    if modules.recipe(module).inputs != "matrix":
        raise ParameterError.value(
            "inputs of the PyTorch module", "'matrix'", modules.recipe(module).inputs, where="to_onnx"
        )
    log = logging.getLogger("torch.onnx")
    level = log.level
    try:
        log.setLevel(logging.ERROR)  # it logs missing image libraries
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside PyTorch
            exported = torch.onnx.export(
                ScoringModule(module).eval(),
                (torch.zeros(2, width),),
                dynamo=True,
                input_names=["matrix"],
                output_names=["scores"],
                dynamic_shapes=({0: torch.export.Dim("rows")},),
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ParameterError(
            f"to_onnx: PyTorch cannot export {type(module).__name__}: {first_line(error)}",
            "Expected a module of tensors alone, for any number of rows.",
            "the error above gives the reason.",
        ) from error
    finally:
        log.setLevel(level)
    return exported.model_proto
