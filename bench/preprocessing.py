"""Preprocessing against scikit-learn, Polars by hand, and Ray's own preprocessors."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.impute import SimpleImputer as SklearnImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder as SklearnOneHot
from sklearn.preprocessing import OrdinalEncoder as SklearnOrdinal
from sklearn.preprocessing import StandardScaler as SklearnScaler

from bench.report import Comparison, Options, Section, alternate, seconds
from bench.synthetic import FLOATS, STRINGS, WITH_MISSING, parquet
from rayline import data
from rayline.stages import OneHotEncoder, OrdinalEncoder, SimpleImputer, StandardScaler, Vectorizer
from rayline.train import Preprocessor

ONE_HOT, ORDINAL = STRINGS[:2], STRINGS[2:]


def run(options: Options) -> Section:
    """All comparisons of this program."""
    folder = parquet(options.rows)
    section = Section(
        "Preprocessing",
        f"{options.rows:,} rows in Parquet, 8 columns of floats (4 with 5 % missing) and 4 of strings (10, 100, 1,000 and 100,000 "
        "different ones). Impute the mean (4 columns) and the mode (2), standard-scale (8), one-hot (2), ordinal (2): 12 columns "
        "become 120.",
        packages=("ray", "scikit-learn"),
    )
    section.add(*in_process(folder, options), *one_row(folder, options), text(options))
    section.add(*on_ray(folder, options))
    if options.full:
        section.add(*memory(options))
    return section


def chain() -> Preprocessor:
    """The preprocessor that is measured."""
    return Preprocessor(
        [
            ("mean", SimpleImputer(WITH_MISSING)),
            ("mode", SimpleImputer(ONE_HOT, strategy="most_frequent")),
            ("scale", StandardScaler(FLOATS)),
            ("ordinal", OrdinalEncoder(ORDINAL)),
            ("onehot", OneHotEncoder(ONE_HOT)),
        ]
    )


# -- in this process ---------------------------------------------------------------------------------------------------


def in_process(folder: Path, options: Options) -> list[Comparison]:
    files = pl.scan_parquet(folder / "*.parquet")
    table = files.collect()
    frame = for_sklearn(table)
    slow = 1 if not options.full else options.repeats
    fit = alternate(lambda: chain().fit(files), lambda: PolarsByHand(files), repeats=options.repeats)
    sklearn_fit = seconds_of(lambda: sklearn_chain().fit(frame), slow)
    fitted, by_hand, sklearn = chain().fit(files), PolarsByHand(files), sklearn_chain().fit(frame)
    ours = fitted.transform(table.head(1000))
    check_equal(ours, by_hand.transform(table.head(1000)))
    order = [*FLOATS, *(c for s in ONE_HOT for c in ours.columns if c.startswith(f"{s}_")), *ORDINAL]
    theirs = sklearn.transform(frame.head(1000))
    theirs = theirs.toarray() if hasattr(theirs, "toarray") else theirs
    check_equal(ours, pl.DataFrame(theirs, schema=order))
    transform = alternate(lambda: fitted.transform(table), lambda: by_hand.transform(table), repeats=options.repeats)
    sklearn_transform = seconds_of(lambda: sklearn.transform(frame), slow)
    lines = [
        Comparison("fit from files, in process", fit[0], "Polars by hand", fit[1], goal=2),
        Comparison("fit from files, in process", fit[0], "scikit-learn, from memory", sklearn_fit, goal=1 / 20),
        Comparison("transform in process", transform[0], "Polars by hand", transform[1], goal=1.3),
        Comparison("transform in process", transform[0], "scikit-learn (sparse result)", sklearn_transform, goal=1),
    ]
    if hasattr(Preprocessor, "fit_folds"):
        folds = alternate(
            lambda: chain().fit_folds(files, data.KFold(5)), lambda: chain().fit(files), repeats=options.repeats
        )
        check_folds(files)
        lines.append(Comparison("fit for each of 5 folds, in process", folds[0], "one fit", folds[1], goal=2.2))
    return lines


class PolarsByHand:
    """The same chain as someone writes it who knows Polars and this table well."""

    def __init__(self, files: pl.LazyFrame) -> None:
        moments = files.select(
            *(pl.col(f).mean().name.prefix("mean_") for f in FLOATS),
            *(pl.col(f).var(ddof=0).name.prefix("var_") for f in FLOATS),
            *(pl.col(f).count().name.prefix("n_") for f in FLOATS),
            pl.len().alias("rows"),
        )
        one, *counts = pl.collect_all([moments, *(files.group_by(s).len() for s in STRINGS)])
        m = one.row(0, named=True)
        self.means = {f: m[f"mean_{f}"] for f in FLOATS}
        # Filling with the mean adds nothing to the squared deviations, only to the count.
        self.scales = {
            f: (m[f"var_{f}"] * m[f"n_{f}"] / (m["rows"] if f in WITH_MISSING else m[f"n_{f}"])) ** 0.5 for f in FLOATS
        }
        tables = dict(zip(STRINGS, counts, strict=True))
        self.modes = {s: tables[s].sort("len", s, descending=[True, False])[s][0] for s in ONE_HOT}
        self.categories = {s: tables[s][s].drop_nulls().sort().to_list() for s in STRINGS}

    def transform(self, table: pl.DataFrame) -> pl.DataFrame:
        def code(s: str) -> pl.Expr:
            return pl.col(s).cast(pl.Enum(self.categories[s]), strict=False).to_physical()

        one_hot = [
            (pl.col(s) == i).cast(pl.UInt8).alias(f"{s}_{v}") for s in ONE_HOT for i, v in enumerate(self.categories[s])
        ]
        return (
            table.lazy()
            .with_columns(
                *((pl.col(f).fill_null(self.means[f]) - self.means[f]) * (1 / self.scales[f]) for f in FLOATS),
                *(code(s).fill_null(self.categories[s].index(self.modes[s])) for s in ONE_HOT),
                *(code(s).cast(pl.Float64) for s in ORDINAL),
            )
            .with_columns(one_hot)
            .drop(ONE_HOT)
            .collect()
        )


def check_equal(mine: pl.DataFrame, theirs: pl.DataFrame) -> None:
    """What is compared must do the same work."""
    assert sorted(mine.columns) == sorted(theirs.columns)
    assert np.allclose(mine.to_numpy(), theirs.select(mine.columns).to_numpy(), rtol=1e-9, atol=1e-9, equal_nan=True)


def check_folds(files: pl.LazyFrame) -> None:
    """Each fold's preprocessor is what a fit on its training rows gives."""
    some = files.head(50_000).collect()
    for fitted, (train, _) in zip(chain().fit_folds(some, 5), data.KFold(5).split(some), strict=True):
        check_equal(fitted.transform(some), chain().fit(train).transform(some))


def for_sklearn(table: pl.DataFrame) -> Any:
    """A pandas table, as scikit-learn is fed: floats with NaN, strings as objects."""
    import pandas as pd

    floats = {f: table[f].fill_null(float("nan")).to_numpy() for f in FLOATS}
    return pd.DataFrame(floats | {s: pd.Series(table[s].to_numpy(), dtype=object) for s in STRINGS})


def sklearn_chain() -> ColumnTransformer:
    """The same chain in scikit-learn."""
    return ColumnTransformer(
        [
            ("missing", make_pipeline(SklearnImputer(), SklearnScaler()), WITH_MISSING),
            ("scale", SklearnScaler(), FLOATS[4:]),
            (
                "onehot",
                make_pipeline(SklearnImputer(strategy="most_frequent"), SklearnOneHot(handle_unknown="ignore")),
                ONE_HOT,
            ),
            ("ordinal", SklearnOrdinal(handle_unknown="use_encoded_value", unknown_value=-1), ORDINAL),
        ]
    )


def seconds_of(work: Callable[[], object], runs: int) -> list[float]:
    return [seconds(work) for _ in range(runs)]


# -- one row, text, memory ---------------------------------------------------------------------------------------------


def one_row(folder: Path, options: Options) -> list[Comparison]:
    """Each request of a server brings one row: what it takes to preprocess it."""
    table = pl.scan_parquet(folder / "*.parquet").head(200_000).collect()
    fitted, by_hand, sklearn = chain().fit(table), PolarsByHand(table.lazy()), sklearn_chain().fit(for_sklearn(table))
    rows = table.head(options.small(500)).to_dicts()
    frames, singles = (
        [for_sklearn(pl.DataFrame([row], schema=table.schema)) for row in rows],
        [table[i] for i in range(len(rows))],
    )
    change = fitted.row_function()
    assert change is not None

    def ours(row: dict[str, Any]) -> dict[str, Any]:
        copy = dict(row)
        change(copy)
        return copy

    assert [ours(row) for row in rows] == fitted.transform(table.head(len(rows))).to_dicts()
    mine = [seconds(lambda row=row: ours(row)) for row in rows]  # type: ignore[misc]
    theirs = [seconds(lambda frame=frame: sklearn.transform(frame)) for frame in frames]  # type: ignore[misc]
    polars = [seconds(lambda single=single: by_hand.transform(single)) for single in singles]  # type: ignore[misc]
    return [
        Comparison("one row, 12 columns → 120 (p50)", mine, "150 µs", [150e-6], goal=1),
        Comparison("one row, 12 columns → 120 (p50)", mine, "scikit-learn", theirs),
        Comparison("one row, 12 columns → 120 (p50)", mine, "Polars by hand", polars),
    ]


def text(options: Options) -> Comparison:
    """Hashed tf-idf of short documents, without a dense matrix on either side."""
    random = np.random.default_rng(0)
    words = np.array([f"word{i}" for i in range(20_000)])
    n = options.small(100_000)
    draws = np.minimum(random.zipf(1.3, size=(n, 20)), len(words)) - 1
    documents = [" ".join(words[draw]) for draw in draws]
    table = pl.DataFrame({"text": documents})
    times = alternate(
        lambda: Preprocessor([("text", Vectorizer(["text"], n_features=2**18, ngram_range=(1, 2)))]).fit_transform(
            table
        ),
        lambda: make_pipeline(
            HashingVectorizer(n_features=2**18, ngram_range=(1, 2), alternate_sign=False, norm=None), TfidfTransformer()
        ).fit_transform(documents),
        repeats=options.repeats,
    )
    return Comparison(
        f"hashed tf-idf, {n:,} documents of 20 words, 1- and 2-grams",
        times[0],
        "HashingVectorizer + TfidfTransformer",
        times[1],
        goal=1,
    )


MEMORY_PROGRAM = """
import json, resource, sys, time
import polars as pl
from bench.preprocessing import chain
files = pl.scan_parquet(sys.argv[1:])
start = time.perf_counter()
chain().fit(files)
print(json.dumps([time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""

MOST_MEMORY_MB = 2048.0
"""What a fit may take at its peak, imports and all, however many rows there are."""


def memory(options: Options) -> list[Comparison]:
    """Fits of ever more rows from files, each in a fresh process: memory is to stay bounded, and time linear."""
    rows = 10 * options.rows
    folder = parquet(rows)
    try:
        files = sorted(folder.glob("*.parquet"))
        parts = {rows // k: fresh_fit(files[: max(1, len(files) // k)]) for k in (4, 2, 1)}
    finally:
        shutil.rmtree(folder)
    least = min(parts)
    return [
        *(
            Comparison(f"peak memory, fit of {n:,} rows", [peak], "2 GB", [MOST_MEMORY_MB], goal=1, unit="MB")
            for n, (_, peak) in parts.items()
        ),
        Comparison(
            f"fit, a million rows of {rows:,}",
            [parts[rows][0] / rows * 1e6],
            f"of {least:,}",
            [parts[least][0] / least * 1e6],
            goal=1.2,
        ),
    ]


def fresh_fit(files: Sequence[Path]) -> tuple[float, float]:
    """Seconds of a fit in a process of its own, and the most memory that this process had, in MB."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY_PROGRAM, *map(str, files)], check=True, capture_output=True, text=True
    )
    took, peak = json.loads(done.stdout)
    return took, peak


# -- on Ray ------------------------------------------------------------------------------------------------------------


def on_ray(folder: Path, options: Options) -> list[Comparison]:
    import ray
    from ray.data import preprocessors as theirs

    started = not ray.is_initialized()
    if started:
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        dataset = data.read_parquet(str(folder))
        scan = lambda: count(dataset)  # noqa: E731
        scan()  # the first execution of a session starts its workers
        ray_chain = theirs.Chain(
            theirs.SimpleImputer(WITH_MISSING),
            theirs.SimpleImputer(ONE_HOT, strategy="most_frequent"),
            theirs.StandardScaler(FLOATS),
            theirs.OrdinalEncoder(ORDINAL),
            theirs.OneHotEncoder(ONE_HOT),
        )
        fit = alternate(lambda: chain().fit(dataset), scan, repeats=options.repeats)
        chain_fit = seconds_of(lambda: ray_chain.fit(dataset), options.repeats if options.full else 1)
        fitted = chain().fit(dataset)
        here = pl.scan_parquet(folder / "*.parquet")
        check_equal(fitted.transform(here.head(1000).collect()), chain().fit(here).transform(here.head(1000).collect()))
        transform = alternate(lambda: count(fitted.transform(dataset)), scan, repeats=options.repeats)
        return [
            Comparison("fit on Ray", fit[0], "one bare scan", fit[1], goal=1.5),
            Comparison("fit on Ray", fit[0], "ray.data.preprocessors.Chain", chain_fit, goal=1 / 8),
            Comparison("transform on Ray", transform[0], "one bare scan", transform[1], goal=1.3),
        ]
    finally:
        if started:
            ray.shutdown()


def count(dataset: Any) -> int:
    """One bare scan: every column of every row is read, and each block answers with its number of rows."""
    counts = dataset.map_batches(lambda batch: {"n": [batch.num_rows]}, batch_format="pyarrow", batch_size=None)
    return sum(row["n"] for row in counts.take_all())
