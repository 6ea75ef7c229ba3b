"""Domains and what is drawn from them: the meaning is Ray Tune's, and so are the draws.

Covers `tune.variants` too.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray import tune as ray_tune
from ray.tune.search.variant_generator import generate_variants

from rayline import tune
from rayline.core.errors import ParameterError
from rayline.tune.domains import from_ray, to_ray
from rayline.tune.variants import variants


def space(of: Any) -> dict[str, Any]:
    """The same space from either library."""
    return {
        "a": of.uniform(-1.0, 2.0),
        "b": of.quniform(0.0, 1.0, 0.25),
        "c": of.loguniform(1e-3, 1.0),
        "d": of.qloguniform(0.5, 8.0, 0.5),
        "e": of.randint(1, 9),
        "f": of.qrandint(2, 9, 2),
        "g": of.lograndint(1, 100),
        "h": of.randn(1.0, 2.0),
        "i": of.qrandn(0.0, 2.0, 0.5),
        "j": of.choice(["x", None, (1, 2)]),
        "grid": of.grid_search([1, 2, 3]),
        "same": {"kept": [1, 2]},
        "preprocessor": {"impute": {"strategy": of.choice(["mean", "median"])}, "other": {"n": of.grid_search([5, 6])}},
    }


@given(st.integers(0, 1000))
def test_draws_are_those_of_ray_tune(seed: int) -> None:
    ours = list(variants(space(tune), 2, np.random.default_rng(seed)))
    random = np.random.default_rng(seed)
    theirs = [config for _ in range(2) for _, config in generate_variants(space(ray_tune), random_state=random)]
    assert len(ours) == 2 * 3 * 2
    for one, other in zip(ours, theirs, strict=True):
        assert one == other
        assert [type(value) for value in one.values()] == [type(value) for value in other.values()]


def test_from_ray_and_back() -> None:
    found = from_ray(space(ray_tune))
    assert {**found, "same": None} == {**space(tune), "same": None}
    assert from_ray(to_ray(space(tune))) == space(tune)
    seen: list[Any] = []
    computed = from_ray({"x": 2, "y": ray_tune.sample_from(lambda config: seen.append(config["x"]) or 1)})
    assert [config["y"] for config in variants(computed, 1, np.random.default_rng(0))] == [1]
    assert seen == [2]


def test_functions_of_other_parameters() -> None:
    config = {
        "third": tune.sample_from(lambda spec: spec.config.second + 1),  # as Ray's older guides write it
        "second": tune.sample_from(lambda config: config["first"] * 2),
        "first": tune.randint(1, 100),
        "alone": tune.sample_from(lambda: "constant"),
        "inside": {"deep": [tune.uniform(0, 1), 3]},
    }
    for found in variants(config, 5, np.random.default_rng(1)):
        assert (found["second"], found["third"], found["alone"]) == (
            found["first"] * 2,
            found["first"] * 2 + 1,
            "constant",
        )
        assert 0 <= found["inside"]["deep"][0] <= 1
    assert list(config) == ["third", "second", "first", "alone", "inside"]  # the user's own is not changed
    around = {"a": tune.sample_from(lambda c: c["b"]), "b": tune.sample_from(lambda c: c["a"])}
    with pytest.raises(ParameterError, match="functions of one another"):
        next(variants(around, 1, np.random.default_rng(0)))
    with pytest.raises(ParameterError, match="no value of 'x' can be drawn: ZeroDivisionError"):
        next(variants({"x": tune.sample_from(lambda: 1 / 0)}, 1, np.random.default_rng(0)))


def test_points_and_constant_draws() -> None:
    config = {"x": tune.uniform(0, 1), "n": tune.grid_search([1, 2])}
    found = list(variants(config, 2, np.random.default_rng(0), points=[{"x": 0.5}]))
    assert [(c["x"] == 0.5, c["n"]) for c in found] == [(True, 1), (True, 2), (False, 1), (False, 2)]
    assert found[2]["x"] != found[3]["x"]
    same = list(variants(config, 1, np.random.default_rng(0), constant=True))
    assert same[0]["x"] == same[1]["x"]


@pytest.mark.parametrize(
    "wrong", [lambda: tune.loguniform(0.0, 1.0), lambda: tune.lograndint(-1, 3), lambda: tune.randn(0.0, 0.0)]
)
def test_what_no_number_can_be_drawn_from(wrong: Any) -> None:
    with pytest.raises(ParameterError, match="above 0"):
        wrong()


def test_names() -> None:
    assert repr(tune.qrandint(1, 9, 2)) == "qrandint(1, 9, 2)"
    assert repr(tune.loguniform(0.1, 1.0)) == "loguniform(0.1, 1.0)"
    assert repr(tune.choice(["a"])) == "choice(['a'])"
    assert math.isclose(
        tune.uniform(2.0, 3.0).sample(np.random.default_rng(0)), np.random.default_rng(0).uniform(2.0, 3.0)
    )


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: tune.uniform(1.0, 0.0), "tune.uniform: upper has a wrong value"),
        (lambda: tune.uniform("a", 1.0), "tune.uniform: lower has a wrong value"),  # type: ignore[arg-type]
        (lambda: tune.uniform(0.0, float("inf")), "tune.uniform: upper has a wrong value"),
        (lambda: tune.randint(3, 3), "tune.randint: upper has a wrong value"),
        (lambda: tune.randint(1, 2.5), "tune.randint: upper has a wrong value"),  # type: ignore[arg-type]
        (lambda: tune.quniform(0.1, 0.2, 0.5), "tune.quniform: no multiple of 0.5 lies between"),
        (lambda: tune.qrandint(1, 9, 0), "tune.qrandint: q has a wrong value"),
        (lambda: tune.loguniform(0.0, 1.0), "loguniform: the lower end is 0.0"),
        (lambda: tune.randn(0.0, 0.0), "tune.randn: sd has a wrong value"),
        (lambda: tune.randn("a"), "tune.randn: mean has a wrong value"),  # type: ignore[arg-type]
        (lambda: tune.choice([]), "tune.choice: categories has a wrong value"),
        (lambda: tune.choice("abc"), "tune.choice: categories has a wrong value"),
        (lambda: tune.grid_search(5), "tune.grid_search: values has a wrong value"),  # type: ignore[arg-type]
        (lambda: tune.sample_from(5), "tune.sample_from: func has a wrong value"),  # type: ignore[arg-type]
    ],
)
def test_spaces_without_values_are_refused(make: Any, says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        make()


def test_numbers_of_numpy_are_ends() -> None:
    assert tune.randint(np.int64(1), np.int64(3)).sample(np.random.default_rng(0)) in (1, 2)  # type: ignore[arg-type]
