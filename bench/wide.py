"""Tables with thousands of columns: the work must grow with the columns, not with their square."""

from __future__ import annotations

import numpy as np
import polars as pl
from sklearn.impute import SimpleImputer as SklearnImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler as SklearnScaler

from bench.report import Comparison, Options, Section, alternate
from rayline import stages
from rayline.train import Preprocessor

COLUMNS = 5_000


def run(options: Options) -> Section:
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


def table(columns: int) -> pl.DataFrame:
    """A thousand rows of floats with missing values."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(1_000, columns))
    values[rng.random(values.shape) < 0.05] = np.nan
    return pl.DataFrame(values, schema=[f"c{i}" for i in range(columns)]).fill_nan(None)
