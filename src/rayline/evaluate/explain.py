"""Explanations of predictions: the contribution of each raw column to the score of a row.

Where the framework can tell, contributions are exact: TreeSHAP of XGBoost, LightGBM and CatBoost (Lundberg and others, 2020), and
the terms of linear models. They are computed by feature and added up by raw column through the lineage. For all other models
Shapley values of the raw columns are estimated from predictions (see `explain_sampling`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core import registry
from rayline.core.abilities import FeatureContributions
from rayline.core.arguments import column_names, integer
from rayline.core.errors import ParameterError, SchemaError, at
from rayline.core.evaluation import PipelineMethod
from rayline.core.features import Features
from rayline.core.schema import SPARSE, col
from rayline.core.target import Target, Task
from rayline.evaluate.explain_sampling import Coalitions, coalitions, shapley_values
from rayline.inference.pipeline import InferencePipeline
from rayline.postprocess.base import only_codes, own_codes, plain_values, suffixes

Array = npt.NDArray[Any]

WHERE = "InferencePipeline.explain"

MAX_BACKGROUND = 100
"""Rows of the background that are used; of more of them, evenly spaced ones."""

SPARSE_WIDTH = 4096
"""The width that is expected of a sparse vector whose elements have no names."""

MAX_CELLS = 1 << 23
"""Contributions of features that are held at a time: 64 MiB."""


@dataclass(frozen=True)
class RowContributions:
    """Contributions of the raw columns to the scores of n rows.

    Attributes
    ----------
    values
        Shape (n, outputs, raw columns).
    base
        Shape (outputs,).
    """

    values: Array
    base: Array

    @property
    def scores(self) -> Array:
        """Shape (n, outputs): base and contributions, added up."""
        scores: Array = self.base + self.values.sum(axis=2)
        return scores


class Explainer:
    """A function that explains a block of rows; the same in this process and on Ray.

    Parameters
    ----------
    pipeline
        The pipeline.
    of
        The class or the target that is explained (see `InferencePipeline.explain`).
    background
        Raw rows that stand for a usual row; None takes the model's examples.
    keep
        The columns of the rows to keep.
    prefix
        Begins the names of all columns that are added.
    seed
        Of the permutations, where values are estimated.
    """

    def __init__(
        self,
        pipeline: InferencePipeline,
        *,
        of: Any = None,
        background: pl.DataFrame | None = None,
        keep: Sequence[str] = (),
        prefix: str = "",
        seed: int = 0,
    ) -> None:
        self.pipeline, self.of, self.keep, self.prefix = pipeline, of, tuple(keep), prefix
        with at(WHERE):
            self.seed: int = integer("seed", seed, minimum=0, maximum=2**32 - 1)
        self.columns = list(pipeline.input_schema)
        rows = pipeline.examples if background is None else background.select(map(col, self.columns))
        places = np.unique(np.linspace(0, max(rows.height - 1, 0), MAX_BACKGROUND).astype(np.int64))
        self.background = rows[places] if rows.height > MAX_BACKGROUND else rows
        self._output = _output(pipeline.target, of)
        self._refuse_taken()

    @property
    def adds(self) -> list[str]:
        """The names of the columns that are added."""
        target = self.pipeline.model.target
        names = [*self.columns, "base_value", "score"]
        if len(target.columns) > 1 and self._output is None:
            names = [f"{name}{suffix}" for suffix in suffixes(target) for name in names]
        elif target.task is Task.MULTICLASS and self._output is None:
            names.append("class")
        return [f"{self.prefix}{name}" for name in names]

    def _refuse_taken(self) -> None:
        names = [*self.keep, *self.adds]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SchemaError(
                f"{WHERE}: two columns of the result would be called {twice[0]!r}.",
                f"Expected each name once; got {names[:20]}.",
                "pass prefix='contribution_', which begins the names of all added columns.",
            )

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        frame = table.collect()
        if missing := [name for name in self.keep if name not in frame.columns]:
            raise SchemaError.missing(missing, frame.columns, where=f"{WHERE} (keep_columns)")
        explained = self.table(frame)
        kept = frame.select(map(col, self.keep))
        return (pl.concat([kept, explained], how="horizontal") if self.keep else explained).lazy()

    def passes(self, names: Sequence[str]) -> list[str]:
        """Return the input columns that are kept."""
        return [name for name in names if name in self.keep]

    def table(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the contributions of the rows as a table."""
        target, contributions = self.pipeline.model.target, self.contributions(frame)
        scores, values, base = (
            contributions.scores,
            contributions.values,
            np.broadcast_to(contributions.base, contributions.scores.shape),
        )
        if len(target.columns) > 1 and self._output is None:
            blocks = [(values[:, t], base[:, t], scores[:, t]) for t in range(scores.shape[1])]
        elif target.task is Task.MULTICLASS and self._output is None:
            code, every = self._predicted(frame), np.arange(len(scores))
            blocks = [(values[every, code], base[every, code], scores[every, code])]
        else:
            place = self._output or 0
            if target.task is Task.BINARY and len(target.columns) == 1:
                sign, start = (1.0, 0.0) if place else (-1.0, 0.0 if self.is_exact else 1.0)
                blocks = [(sign * values[:, 0], start + sign * base[:, 0], start + sign * scores[:, 0])]
            else:
                blocks = [(values[:, place], base[:, place], scores[:, place])]
        series = [c for block in blocks for c in (*block[0].T, block[1], block[2])]
        columns = [pl.Series(name, c, dtype=pl.Float64) for name, c in zip(self.adds, series, strict=False)]
        if target.task is Task.MULTICLASS and self._output is None:
            labels = pl.Series(self.adds[-1], list(target.classes[0]), dtype=target.dtypes[0])
            columns.append(labels.gather(pl.Series(code.astype(np.int64))))
        return pl.DataFrame(columns)

    def _predicted(self, frame: pl.DataFrame) -> Array:
        """Return the class that the pipeline predicts for each row: that of the largest score, unless a model decides otherwise."""
        if not len(frame):
            return np.empty(0, dtype=np.int64)
        codes: Array = self.pipeline.target.codes(self.pipeline.scores(frame.lazy()))[0]
        return codes

    def contributions(self, frame: pl.DataFrame) -> RowContributions:
        """Return the contributions of the raw columns to each output."""
        if not frame.height:  # libraries and stages that need a row: the shape of its answer counts
            contributions = self.contributions(self._one_row)
            return RowContributions(contributions.values[:0], contributions.base)
        if not self.is_exact:
            return self._estimated(frame)
        parts = [self._exact(frame[start : start + self._piece]) for start in range(0, len(frame), self._piece)]
        return RowContributions(np.concatenate([part.values for part in parts]), parts[0].base)

    # -- by feature ------------------------------------------------------------------------------------------------

    @cached_property
    def is_exact(self) -> bool:
        """Whether the framework computes contributions of this model; otherwise they are estimated."""
        contributions = self._of_features(self._one_row)
        outputs = self.pipeline.model.target.n_outputs
        return (
            contributions is not None
            and contributions.values.shape[1] == outputs
            and self._shares(contributions.values.shape[2]) is not None
        )

    @property
    def _one_row(self) -> pl.DataFrame:
        rows = self.background.head(1)
        return rows if rows.height else pl.DataFrame(schema=self.pipeline.input_schema).clear(1)

    def _of_features(self, frame: pl.DataFrame) -> FeatureContributions | None:
        pipeline = self.pipeline
        return pipeline.model.contributions(pipeline.prepared(frame.lazy()))

    @cached_property
    def _piece(self) -> int:
        dtypes, width = self.pipeline.model.schema.values(), 0
        for features, dtype in zip(self._lineage, dtypes, strict=True):
            width += max(len(features), SPARSE_WIDTH if dtype == SPARSE else 1)
        return max(1, MAX_CELLS // max(1, width * self.pipeline.model.target.n_outputs))

    @cached_property
    def _lineage(self) -> list[Mapping[str, Sequence[str]]]:
        """The elements of each feature of the model, and the raw columns that each is computed from."""
        preprocessor, names = self.pipeline.preprocessor, self.pipeline.model.feature_names
        if preprocessor is None:
            return [{name: (name,)} for name in names]
        of = preprocessor.features_of
        return [of[name] for name in names]

    def _shares(self, width: int) -> Array | None:
        """Return how much of each of `width` contributions belongs to each raw column, shape (width, raw columns + 1); the last
        column is for features that depend on none. A feature of several columns belongs to them in equal shares."""
        elements = [feature_sources for feature in self._lineage for feature_sources in feature.values()]
        if width == len(self._lineage):
            elements = [
                tuple(dict.fromkeys(name for sources in feature.values() for name in sources))
                for feature in self._lineage
            ]
        elif width != len(elements):
            places = Features(self._example_features, schema=self.pipeline.model.schema).places.values()
            elements = []
            for feature, place in zip(self._lineage, places, strict=True):
                feature_sources = list(feature.values())
                elements += feature_sources if len(feature_sources) == len(place) else [feature_sources[0]] * len(place)
            if len(elements) != width:
                return None
        place_of = {name: i for i, name in enumerate(self.columns)}
        shares = np.zeros((width, len(self.columns) + 1))
        for i, sources in enumerate(elements):
            for name in sources:
                shares[i, place_of[name]] += 1.0 / len(sources)
            if not sources:
                shares[i, -1] = 1.0
        return shares

    @cached_property
    def _example_features(self) -> pl.DataFrame:
        pipeline = self.pipeline
        return pipeline.prepared(self.background.lazy()).select(map(col, pipeline.model.schema)).collect()

    @cached_property
    def _center(self) -> tuple[Array, Array] | None:
        """The mean terms of the background of a linear model, by raw column, and their sum; None for any other model."""
        if not len(self.background):
            return None
        contributions = self._of_features(self.background)
        assert contributions is not None
        return (
            None
            if not contributions.is_linear
            else (contributions.values.mean(axis=0), contributions.values.mean(axis=0).sum(axis=1))
        )

    def _exact(self, frame: pl.DataFrame) -> RowContributions:
        contributions = self._of_features(frame)
        assert contributions is not None
        values, base = contributions.values, contributions.base
        if self._center is not None:
            values, base = values - self._center[0], base + self._center[1]
        shares = self._shares(values.shape[2])
        assert shares is not None
        by_column = values @ shares
        if len(by_column) and shares[:, -1].any():
            base = base + by_column[0, :, -1]
        return RowContributions(by_column[:, :, :-1], base)

    # -- estimated -------------------------------------------------------------------------------------------------

    @cached_property
    def _coalitions(self) -> Coalitions:
        return coalitions(len(self.columns), self.seed)

    def _estimated(self, frame: pl.DataFrame) -> RowContributions:
        if not len(self.background):
            raise ParameterError(
                f"{WHERE}: this model has no example rows to compare with.",
                "Expected rows of the training data.",
                "pass some of them: explain(rows, background=training_rows.head(100)).",
            )
        rows = frame.select(map(col, self.columns))
        values, base = shapley_values(self.predict, rows, self.background, self._coalitions)
        return RowContributions(values, base)

    def predict(self, frame: pl.DataFrame) -> Array:
        """Return the model's answers for raw rows, shape (n, outputs): probabilities, or values on the scale of the labels."""
        scores, target = self.pipeline.model_scores(frame.lazy()), self.pipeline.model.target
        if not only_codes(scores, target):
            return plain_values(scores, target)
        codes = own_codes(scores)
        assert codes is not None
        if target.task is Task.MULTICLASS:
            codes = codes == np.arange(target.n_outputs)
        predictions: Array = codes.astype(np.float64)
        return predictions


class Explain(PipelineMethod):
    """`InferencePipeline.explain`, see there."""

    def __call__(self, pipeline: Any, *args: Any, **options: Any) -> Any:
        return explain(pipeline, *args, **options)

    def is_exact(self, pipeline: Any) -> bool:
        """Return whether the framework computes the contributions of a pipeline's model; otherwise they are estimated."""
        return Explainer(pipeline, prefix="\x1f").is_exact

    def explainer(self, pipeline: Any, **options: Any) -> Explainer:
        """Return the function that explains blocks of rows, for a server that keeps it."""
        return Explainer(pipeline, **options)


def explain(
    pipeline: InferencePipeline,
    rows: Any,
    *,
    of: Any = None,
    background: Any = None,
    keep_columns: Sequence[str] | None = (),
    prefix: str = "",
    seed: int = 0,
) -> Any:
    """Return the contributions of the raw columns; see `InferencePipeline.explain`."""
    with at(WHERE):
        keep = column_names("keep_columns", keep_columns)
    explainer = Explainer(
        pipeline, of=of, background=background_rows(pipeline, background), keep=keep, prefix=prefix, seed=seed
    )
    return registry.engine_for(rows).map(rows, explainer)


def background_rows(pipeline: InferencePipeline, background: Any) -> pl.DataFrame | None:
    """Return the rows to compare with as a table: at most the first 10,000 of what was given."""
    if background is None:
        return None
    engine = registry.engine_for(background)
    with engine.keeping(background):
        table = engine.head(background, 10_000)
    if missing := [name for name in pipeline.input_schema if name not in table.columns]:
        raise SchemaError.missing(missing, table.columns, where=f"{WHERE} (background)")
    if not table.height:
        raise ParameterError.value("background", "at least one row", "no rows", where=WHERE)
    assert isinstance(table, pl.DataFrame)
    return table


def _output(target: Target, of: Any) -> int | None:
    """Return the place of the class or target that is explained; None for all targets, or the class that is predicted."""
    if len(target.columns) > 1:
        if of is not None and of not in target.columns:
            raise ParameterError.value("of", f"one of the targets {list(target.columns)}", of, where=WHERE)
        return None if of is None else target.columns.index(of)
    if len(target.quantiles) > 1:
        if of is not None and of not in target.quantiles:
            raise ParameterError.value("of", f"one of the quantiles {list(target.quantiles)}", of, where=WHERE)
        nearest = min(target.quantiles, key=lambda quantile: abs(quantile - 0.5))
        return target.quantiles.index(nearest if of is None else of)
    if not target.task.is_classification:
        if of not in (None, target.columns[0]):
            raise ParameterError.value("of", f"None for the regression of {target.columns[0]!r}", of, where=WHERE)
        return 0
    classes = target.classes[0]
    if of is None:
        return 1 if target.task is Task.BINARY else None
    for code, label in enumerate(classes):
        if label == of and isinstance(label, bool) == isinstance(of, bool):
            return code
    raise ParameterError.value("of", f"one of the classes {list(classes)!r}", of, where=WHERE)
