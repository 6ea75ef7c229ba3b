"""Stages after the model: calibrated probabilities, thresholds, intervals and sets, limits and rounding.

`pipeline.calibrated([…], rows)` learns them from held-back rows, `analysis.calibrated([…])` from the held-out predictions of a
tuning run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rayline.core import registry

if TYPE_CHECKING:
    from rayline.postprocess.calibration import Calibrate
    from rayline.postprocess.conformal import Conformal
    from rayline.postprocess.limits import Clip, Round
    from rayline.postprocess.threshold import Threshold

__all__ = ["Calibrate", "Clip", "Conformal", "Round", "Threshold"]


if not TYPE_CHECKING:  # otherwise every misspelt name would be accepted

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module 'rayline.postprocess' has no stage {name!r}; expected one of {__all__}")
        return registry.postprocessing_stage(name)


def __dir__() -> list[str]:
    return sorted(__all__)
