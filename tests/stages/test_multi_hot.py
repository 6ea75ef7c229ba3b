"""Lists of categories."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.preprocessing import MultiLabelBinarizer

from rayline.core.errors import SchemaError
from rayline.inference.pipeline import Preprocessor
from rayline.stages import (
    MultiHotEncoder,
)

from .one_stage import run


def test_multi_hot() -> None:
    tags = [["b", "a"], [], ["c", "c"], ["a"]]
    expected = MultiLabelBinarizer().fit_transform(tags)
    ours = run(MultiHotEncoder(), pl.DataFrame({"t": tags}))
    assert ours.columns == ["t_a", "t_b", "t_c"]
    np.testing.assert_array_equal(ours.to_numpy(), expected)
    assert run(MultiHotEncoder(max_categories=1), pl.DataFrame({"t": tags})).columns == ["t_a"]
    with pytest.raises(SchemaError, match="lists of strings"):
        run(MultiHotEncoder(["t"]), pl.DataFrame({"t": [[1.5]]}))


def test_lists_that_are_no_categories_are_left_alone() -> None:
    table = pl.DataFrame({"t": [["a"], ["b", "a"]], "nested": [[[1]], [[2]]], "x": [[0.5], []]})
    made = Preprocessor([("m", MultiHotEncoder())]).fit_transform(table)
    assert made.columns == ["nested", "x", "t_a", "t_b"]
    with pytest.raises(SchemaError, match="column 'nested' has the wrong type"):
        Preprocessor([("m", MultiHotEncoder(["nested"]))]).fit(table)
