"""Search spaces: taken apart, flattened, and shown."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rayline.tune import choice, grid_search, space, uniform

CONFIG = {
    "eta": uniform(0.0, 1.0),
    "class_weight": {"a": 1.0},
    "num_boost_round": 5,
    "preprocessor": {
        "impute": {"strategy": choice(["mean"])},
        "text": {"inner": {"n": grid_search([1, 2])}},
        "scale": {"with_mean": True},
    },
}


def test_flatten_and_what_is_tuned() -> None:
    assert list(space.flatten(CONFIG)) == [
        "eta", "class_weight", "num_boost_round", "preprocessor/impute/strategy", "preprocessor/text/inner/n",
        "preprocessor/scale/with_mean",
    ]  # fmt: skip
    assert space.tuned(CONFIG) == ["eta", "preprocessor/impute/strategy", "preprocessor/text/inner/n"]
    assert space.tuned_stages(CONFIG) == ["impute", "text"]
    assert space.n_trials(CONFIG, 3) == 6
    assert space.n_trials({}, 3) == 3


def test_parts() -> None:
    trainer, stages, after = space.split_space(
        {
            "eta": np.float64(0.5),
            "preprocessor": {"impute": {"strategy": np.str_("mean")}},
            "postprocess": {"Clip": {"low": 0}},
        }
    )
    assert trainer == {"eta": 0.5}
    assert type(trainer["eta"]) is float
    assert stages == {"impute": {"strategy": "mean"}}
    assert after == {"Clip": {"low": 0}}
    assert space.split_space({"eta": 1}) == ({"eta": 1}, {}, {})


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)
    )
)
def test_cells_of_a_table_are_plain(value: object) -> None:
    found = space.cell(value)
    assert found is None or isinstance(found, (bool, int, float, str))
    if isinstance(value, (list, dict)):
        assert json.loads(found) == value  # type: ignore[arg-type]
