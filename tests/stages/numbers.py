"""Three columns of numbers, some that come later, and a stage alone on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from rayline.inference.pipeline import Preprocessor

RNG = np.random.default_rng(7)
TABLE = pl.DataFrame(
    {"a": RNG.normal(3, 2, 200), "b": RNG.lognormal(0, 1, 200), "c": RNG.integers(1, 6, 200).astype(float)}
)
NEW = pl.DataFrame({"a": RNG.normal(3, 4, 50), "b": RNG.lognormal(0, 2, 50), "c": RNG.integers(0, 9, 50).astype(float)})


def transform(stage: Any, table: pl.DataFrame = TABLE, new: pl.DataFrame = NEW) -> np.ndarray[Any, Any]:
    return Preprocessor([("stage", stage)]).fit(table).transform(new).to_numpy()
