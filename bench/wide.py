"""Tables with thousands of columns, many stages, many distinct strings and long texts: the work must not grow with the square."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import polars as pl
from sklearn.impute import SimpleImputer as SklearnImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler as SklearnScaler

from bench.report import Comparison, Options, Section, alternate
from rayline import stages
from rayline.train import Preprocessor

COLUMNS = 5_000


def run(options: Options) -> list[Section]:
    """Measure wide tables, and other shapes of work."""
    parts = {"columns": columns, "shapes": shapes}
    return [part(options) for name, part in parts.items() if not options.only or name in options.only]


def columns(options: Options) -> Section:
    """Compare 5,000 columns with 1,000, and with scikit-learn on the same matrix."""
    wide = table(options.small(COLUMNS))
    section = Section(
        "Wide tables",
        f"1,000 rows of {wide.width:,} columns of floats with 5 % missing, in process. Compared with the same on a fifth of the columns: "
        "a ratio of 5 is linear, 25 the square.",
        packages=("scikit-learn",),
    )
    fifth = wide.select(wide.columns[: wide.width // 5])
    chains = {
        "impute, scale": [("impute", stages.SimpleImputer()), ("scale", stages.StandardScaler())],
        "min-max": [("scale", stages.MinMaxScaler())],
        "5 bins": [("impute", stages.SimpleImputer()), ("bins", stages.KBinsDiscretizer())],
        "power": [("power", stages.PowerTransformer())],
    }
    for name, chain in chains.items():
        fit = alternate(
            lambda chain=chain: Preprocessor(chain).fit(wide),  # type: ignore[misc]
            lambda chain=chain: Preprocessor(chain).fit(fifth),  # type: ignore[misc]
            repeats=options.repeats,
        )
        section.add(Comparison(f"fit: {name}", fit[0], f"of {fifth.width:,} columns", fit[1], goal=6))
        large, small = Preprocessor(chain).fit(wide), Preprocessor(chain).fit(fifth)
        transform = alternate(
            lambda p=large: p.transform(wide),  # type: ignore[misc]
            lambda p=small: p.transform(fifth),  # type: ignore[misc]
            repeats=options.repeats,
        )
        section.add(Comparison(f"transform: {name}", transform[0], f"of {fifth.width:,} columns", transform[1], goal=6))
    chain = chains["impute, scale"]
    matrix = wide.to_numpy()
    fit = alternate(
        lambda: Preprocessor(chain).fit(wide),
        lambda: make_pipeline(SklearnImputer(), SklearnScaler()).fit(matrix),
        repeats=options.repeats,
    )
    fitted, sklearn = Preprocessor(chain).fit(wide), make_pipeline(SklearnImputer(), SklearnScaler()).fit(matrix)
    assert np.allclose(fitted.transform(wide).to_numpy(), sklearn.transform(matrix), rtol=1e-9, atol=1e-9)
    section.add(
        Comparison("fit: impute, scale", fit[0], "5 s", [5.0], goal=1),
        Comparison("fit: impute, scale", fit[0], "scikit-learn", fit[1]),
    )
    return section


def shapes(options: Options) -> Section:
    """Compare each shape with a part of it: what is linear takes as many times as long as it is larger."""
    section = Section(
        "Shapes of work",
        "In process, each compared with a part of it. 2,000,000 distinct strings in 4,000,000 rows are grouped (`RareCategories`) and encoded; 2,000 columns of "
        "1,000 rows are imputed and scaled; 500 stages of one column each, 1,000 rows; 200 texts of 100,000 characters are hashed (`Vectorizer`). "
        "The goal is the proportion and a fifth.",
    )
    for name, small, large, times in _shapes(options):
        taken = alternate(large, small, repeats=options.repeats)
        section.add(Comparison(name, taken[0], f"1/{times} of it", taken[1], goal=1.2 * times))
    return section


def _shapes(options: Options) -> Iterator[tuple[str, Callable[[], object], Callable[[], object], int]]:
    """Yield the name of a shape, the work on a part of it and on the whole, and how many times the whole is the part."""
    n = options.small(2_000_000)
    distinct = {k: pl.DataFrame({"id": [f"id {i}" for i in range(n // k)] * 2}) for k in (2, 1)}
    rare = [("rare", stages.RareCategories(min_frequency=0.01)), ("codes", stages.OrdinalEncoder())]
    yield f"fit: {n:,} distinct strings", *(partial(_fit, rare, distinct[k]) for k in (2, 1)), 2
    wide = {k: table(options.small(2_000) // k) for k in (5, 1)}
    scale = [("impute", stages.SimpleImputer()), ("scale", stages.StandardScaler())]
    yield f"fit and transform: {wide[1].width:,} columns", *(partial(_fit_transform, scale, wide[k]) for k in (5, 1)), 5
    many = [(f"clip {i}", stages.Clipper([f"c{i}"], low=-1.0, high=1.0)) for i in range(500)]
    narrow = table(500)
    yield "fit and transform: 500 stages", *(partial(_fit_transform, many[: 500 // k], narrow) for k in (5, 1)), 5
    words = np.array([f"word{i}" for i in range(20_000)])
    random = np.random.default_rng(0)
    texts = {
        k: pl.DataFrame({"text": [" ".join(random.choice(words, 11_200 // k)) for _ in range(200)]}) for k in (5, 1)
    }
    hashed = [("text", stages.Vectorizer(["text"], n_features=2**12))]
    yield (
        "fit and transform: texts of 100,000 characters",
        *(partial(_fit_transform, hashed, texts[k]) for k in (5, 1)),
        5,
    )


def _fit(chain: Sequence[Any], rows: pl.DataFrame) -> object:
    return Preprocessor(chain).fit(rows)


def _fit_transform(chain: Sequence[Any], rows: pl.DataFrame) -> object:
    return Preprocessor(chain).fit(rows).transform(rows)


def table(columns: int) -> pl.DataFrame:
    """A thousand rows of floats with missing values."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(1_000, columns))
    values[rng.random(values.shape) < 0.05] = np.nan
    return pl.DataFrame(values, schema=[f"c{i}" for i in range(columns)]).fill_nan(None)
