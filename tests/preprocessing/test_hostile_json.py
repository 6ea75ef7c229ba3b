"""A preprocessor's JSON changed by an attacker: a typed error, or a working preprocessor, in little time and memory.

Covers `core.json_values`, `core.operations.linear`, `core.strict_json` and `preprocessing.smoke_check` too.
"""

from __future__ import annotations

import copy
import datetime as dt
import json
import random
import time
from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest

import rayline as rl
from rayline import stages
from rayline.core import strict_json
from rayline.core.operations.expression import check

TABLE = pl.DataFrame(
    {
        "a": [None if i % 5 == 0 else i / 3 for i in range(30)],
        "b": [float(i % 7) for i in range(30)],
        "n": [i % 4 for i in range(30)],
        "s": [None if i % 9 == 0 else "xyz"[i % 3] for i in range(30)],
        "t": [f"word{i % 5} other{i % 3} and more" for i in range(30)],
        "d": [dt.datetime(2020, 1 + i % 12, 1 + i % 28, i % 24) for i in range(30)],
        "y": [i % 2 for i in range(30)],
    }
)


def fitted() -> rl.Preprocessor:
    """Stages of every family."""
    made = rl.Preprocessor(
        [
            ("check", stages.CheckRange(["b"], low=-1e9, high=1e9)),
            ("indicator", stages.MissingIndicator(["a"])),
            ("impute", stages.SimpleImputer(["a", "s"], strategy="most_frequent")),
            ("formula", stages.Expression(output="e", formula=["/", ["col", "a"], ["+", ["col", "b"], 1]])),
            ("robust", stages.RobustScaler(["a"])),
            ("power", stages.PowerTransformer(["b"])),
            ("scale", stages.StandardScaler(["a"])),
            ("bins", stages.KBinsDiscretizer(["e"], n_bins=3)),
            ("target", stages.TargetEncoder(["n"])),
            ("onehot", stages.OneHotEncoder(["s"])),
            ("text", stages.HashingVectorizer(["t"], n_features=16)),
            ("date", stages.DatetimeEncoder(["d"])),
            ("pca", stages.PCA(["a", "b"], n_components=1)),
        ]
    )
    return made.fit(TABLE, target_columns=["y"])


HOSTILE: list[Any] = [
    None, True, -1, 0, 2**31, 2**63, -(2**63), 10**400, 1e308, -0.0, 1e-320, "", "x", "os.system", "\x00", "x" * 100_000, [], {},
    [[]], [None], [1, "a", None], {"a": 1}, {"$float": "nan"}, {"$float": "x"}, {"$float": "1" * 1000}, {"$date": "x"},
    {"$datetime": "99999-01-01"}, {"$us": 10**30}, {"$decimal": "1e999999999"}, {"$decimal": "x"}, {"$bytes": "!"},
    {"$dtype": ["Array", "Int8", 2**31]}, {"$dtype": ["Enum", ["a", "a"]]}, {"$dtype": ["Decimal", 10**9, 1]}, {"$dtype": "Evil"},
    ["Enum", ["a", "a"]], ["Array", ["Array", "Int8", 2**31], 2**31], ["Struct", [["a"]]], ["Datetime", "us", "Nowhere/City"],
    ["col", "a"], ["eval", "1"], ["**", ["**", 10, 10], 400],
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values in a JSON value."""
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*path, key))


def spoiled(whole: Any, rng: random.Random) -> tuple[str, Any]:
    """The value with one part replaced, left out, repeated, or exchanged for another part."""
    made, every = copy.deepcopy(whole), list(places(whole))
    path = rng.choice(every[1:])
    parent = made
    for key in path[:-1]:
        parent = parent[key]
    how = rng.choice(["replace", "replace", "replace", "drop", "repeat", "exchange"])
    if how == "drop":
        del parent[path[-1]]
    elif how == "repeat" and isinstance(parent[path[-1]], list):
        parent[path[-1]] = parent[path[-1]] * 50
    elif how == "exchange":
        other = whole
        for key in rng.choice(every[1:]):
            other = other[key]
        parent[path[-1]] = copy.deepcopy(other)
    else:
        parent[path[-1]] = copy.deepcopy(rng.choice(HOSTILE))
    return f"{how} {path}", made


def opened(value: Any) -> None:
    """What someone does with a preprocessor from a file."""
    text = json.dumps(value).encode()
    made = rl.Preprocessor.from_json(strict_json.loads(text, "preprocessor.json"))
    made.transform(TABLE)
    made.transform(TABLE.head(0))
    row = made.row_function()
    if row is not None:
        row(TABLE.row(3, named=True))


def _attack(seed: int, n: int) -> int:
    whole, rng, refused = fitted().to_json(), random.Random(seed), 0
    opened(whole)
    for _ in range(n):
        what, made = spoiled(whole, rng)
        started = time.process_time()
        try:
            opened(made)
        except rl.RaylineError:
            refused += 1
        except BaseException as error:
            raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
        assert time.process_time() - started < 10, what
    return refused


def test_a_changed_preprocessor_is_refused_or_works() -> None:
    assert _attack(seed=1, n=60) > 20


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_many_changed_preprocessors(seed: int) -> None:
    assert _attack(seed=100 + seed, n=1500) > 500


@pytest.mark.parametrize(
    "formula",
    [
        ["__import__", "os"],
        ["col"],
        ["col", 1],
        ["+", 1],
        ["+", 1, 2, 3],
        {"a": 1},
        [[]],
        [],
        ["if", ["col", "a"]],
        float("nan"),
    ],
)
def test_what_is_no_formula_is_refused(formula: Any) -> None:
    with pytest.raises(rl.ParameterError):
        check(formula)


def test_a_formula_without_end_is_refused() -> None:
    deep: Any = 1
    for _ in range(500):
        deep = ["abs", deep]
    with pytest.raises(rl.ParameterError, match="levels"):
        check(deep)


@pytest.mark.parametrize("schema", ["input_schema", "output_schema"])
def test_one_schema_without_the_other_is_refused(schema: str) -> None:
    with pytest.raises(rl.ArtifactError, match="only one of its two schemas"):
        rl.Preprocessor.from_json(fitted().to_json() | {schema: None})
