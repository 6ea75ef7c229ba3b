"""Data: reading it, splitting it, preparing it. Names are loaded when they are first used; none of them needs Ray before."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_NAMES = {
    "read_parquet": "read",
    "read_csv": "read",
    "read_json": "read",
    "from_pandas": "read",
    "from_polars": "read",
    "from_arrow": "read",
    "train_test_split": "split.train_test",
    "Splitter": "split.base",
    "Folds": "split.base",
    "KFold": "split.splitters",
    "StratifiedKFold": "split.splitters",
    "GroupKFold": "split.splitters",
    "TimeSeriesSplit": "split.splitters",
    "RepeatedKFold": "split.splitters",
    "Bootstrap": "split.splitters",
    "Holdout": "split.holdout",
    "map_batches": "batches",
}

if TYPE_CHECKING:
    from rayline.data.batches import map_batches
    from rayline.data.read import from_arrow, from_pandas, from_polars, read_csv, read_json, read_parquet
    from rayline.data.split.base import Folds, Splitter
    from rayline.data.split.holdout import Holdout
    from rayline.data.split.splitters import (
        Bootstrap,
        GroupKFold,
        KFold,
        RepeatedKFold,
        StratifiedKFold,
        TimeSeriesSplit,
    )
    from rayline.data.split.train_test import train_test_split

__all__ = [
    "Bootstrap",
    "Folds",
    "GroupKFold",
    "Holdout",
    "KFold",
    "RepeatedKFold",
    "Splitter",
    "StratifiedKFold",
    "TimeSeriesSplit",
    "from_arrow",
    "from_pandas",
    "from_polars",
    "map_batches",
    "read_csv",
    "read_json",
    "read_parquet",
    "train_test_split",
]


if not TYPE_CHECKING:  # otherwise every misspelt name would be accepted

    def __getattr__(name: str) -> Any:
        if name in _NAMES:
            return getattr(importlib.import_module(f"rayline.data.{_NAMES[name]}"), name)
        raise AttributeError(f"module 'rayline.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
