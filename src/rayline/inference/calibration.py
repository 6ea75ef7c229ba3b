"""Learning the stages after the model: scored rows with labels, from a table or a Dataset, or from held-out predictions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from rayline.core import registry
from rayline.core.errors import ParameterError, SchemaError, at, place
from rayline.core.row_weights import check_weight_column, row_weights
from rayline.core.scan import Scan
from rayline.core.schema import col, refuse_empty
from rayline.core.scores import has_probabilities
from rayline.core.statistics.base import StatisticRequest
from rayline.core.statistics.scored_row_sample import MAX_SAMPLE_ROWS, ScoredRowSample
from rayline.core.target import Target
from rayline.inference.model import Scores
from rayline.inference.scorer import Scorer
from rayline.postprocess import chain
from rayline.postprocess.base import CalibrationRows, Outcome, group_texts, only_codes, own_codes, plain_values

WHERE = "InferencePipeline.calibrated"

GROUP = "group"


class RowScorer:
    """Adds to raw rows with labels what stages learn from (a `RowMapper`): scores, labels, weight and group.

    Its columns are named `value_0`, …, `truth_0`, …, `weight` and `group`.
    """

    is_local = True

    def __init__(self, pipeline: Scorer[Any], weight: str | None, groups: Sequence[str]) -> None:
        self._pipeline, self._weight, self._groups, self._place = pipeline, weight, tuple(groups), place()
        target = pipeline.target
        self.columns = tuple(
            dict.fromkeys([*pipeline.input_schema, *target.columns, *([] if weight is None else [weight])])
        )
        names = [f"value_{i}" for i in range(target.n_outputs)] + [f"truth_{i}" for i in range(len(target.columns))]
        self.adds = pl.Schema(
            {**dict.fromkeys([*names, "weight"], pl.Float64()), **({GROUP: pl.String()} if groups else {})}
        )

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        return table.map_batches(self._placed, schema=self.adds, streamable=True)

    def _placed(self, frame: pl.DataFrame) -> pl.DataFrame:
        with at(self._place):
            return self._scored(frame)

    def _scored(self, frame: pl.DataFrame) -> pl.DataFrame:
        pipeline, target = self._pipeline, self._pipeline.target
        scores = pipeline.scores(frame.lazy())
        refuse_classes_only(scores, target, pipeline.model.framework)
        truth = target.truth_of(frame).reshape(frame.height, len(target.columns))
        values = plain_values(scores, target)
        columns = [*values.T, *truth.T.astype(np.float64), weights(frame, self._weight)]
        scored = pl.DataFrame(
            [pl.Series(name, c, dtype=pl.Float64) for name, c in zip(self.adds, columns, strict=False)]
        )
        if not self._groups:
            return scored
        texts = pipeline._check.only(self._groups)(frame.lazy().select(map(col, self._groups))).collect()
        return scored.with_columns(group_texts(texts, self._groups).alias(GROUP))


@at(WHERE)
def calibrated(pipeline: Scorer[Any], stages: Sequence[Any], rows: Any, weight: str | None) -> chain.Stages:
    """Return the stages of a pipeline after new ones were learned; see `InferencePipeline.calibrated`."""
    new = chain.checked(stages, pipeline.target, pipeline.input_schema)
    kept = chain.replaced(pipeline.postprocessing, new)
    chain.check_order((*kept, *new))
    base = Scorer(pipeline.preprocessor, pipeline.model, kept)
    if rows is None:
        if lacking := [type(stage).__name__ for stage in new if stage.needs_rows]:
            raise ParameterError(
                f"{WHERE}: {lacking[0]} learns from rows, and there is no calibration_set.",
                "Expected rows with labels that the model was not trained on.",
                "hold some back with rayline.data.train_test_split and pass them.",
            )
        return (*kept, *chain.learn(new, chain.no_rows(pipeline.target)))
    with registry.engine_for(rows).keeping(rows):  # its types and its rows are one reading
        scored = _scanned(base, new, rows, weight)
    return (*kept, *chain.learn(new, scored))


def _scanned(pipeline: Scorer[Any], stages: chain.Stages, rows: Any, weight: str | None) -> CalibrationRows:
    """Return the scored rows of a calibration set, from one scan."""
    engine = registry.engine_for(rows)
    groups = list(dict.fromkeys(name for stage in stages for name in stage.group_columns))
    present = engine.schema(rows)
    check_weight_column(weight, present)
    scorer = RowScorer(pipeline, weight, groups)
    if missing := [name for name in scorer.columns if name not in present]:
        raise SchemaError.missing(missing, present, where=f"{WHERE} (calibration_set)")
    options = (("grouped", bool(groups)), ("size", MAX_SAMPLE_ROWS))
    request = StatisticRequest(ScoredRowSample, tuple(scorer.adds), options)
    results = engine.scan(rows, Scan([request], attach=scorer))
    state = results[0][request] if results else ScoredRowSample()
    assert isinstance(state, ScoredRowSample)
    with at(f"{WHERE} (calibration_set)"):
        refuse_empty(state.n_rows)
    return _of_table(pipeline.target.plain, state.rows, groups)


def _of_table(target: Target, table: pl.DataFrame, groups: Sequence[str]) -> CalibrationRows:
    k, t = target.n_outputs, len(target.columns)
    numbers = table.select(pl.col([str(i) for i in range(k + t + 1)])).to_numpy()
    counts = table["n"].cast(pl.Float64).to_numpy()
    texts = table[str(k + t + 1)] if groups else None
    outcome = Outcome(target, numbers[:, :k].copy(), groups=texts)
    return CalibrationRows(outcome, numbers[:, k : k + t], numbers[:, k + t] * counts, counts)


@dataclass(frozen=True)
class HeldOutSample:
    """Makes rows to learn from of held-out rows and the scores of the folds' models, which are on the scale of the labels: `target` has
    no target stages. A call samples at most 262,144 different rows (see `ScoredRowSample`), `merged` puts parts together; `whole`
    takes all rows of tables."""

    target: Target
    weight: str | None
    groups: Sequence[str]
    framework: str
    size: int = field(default_factory=lambda: MAX_SAMPLE_ROWS)

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        return list(
            dict.fromkeys((*self.target.columns, *([] if self.weight is None else [self.weight]), *self.groups))
        )

    def whole(self, folds: Sequence[tuple[pl.DataFrame, Scores]]) -> CalibrationRows:
        """Return the rows of all folds, of which there is a table and the scores of its model."""
        target, groups = self.target, self.groups
        for _, scores in folds:
            refuse_classes_only(scores, target, self.framework)
        values = np.concatenate([plain_values(scores, target) for _, scores in folds])
        codes = [part for _, scores in folds if (part := own_codes(scores)) is not None]
        truth = [target.truth_of(frame).reshape(frame.height, len(target.columns)) for frame, _ in folds]
        texts = pl.concat([group_texts(frame, groups) for frame, _ in folds]) if groups else None
        return CalibrationRows(
            Outcome(target, values, np.concatenate(codes) if len(codes) == len(folds) else None, groups=texts),
            np.concatenate(truth).astype(np.float64),
            np.concatenate([weights(frame, self.weight) for frame, _ in folds]),
            np.ones(len(values)),
            np.concatenate([np.full(frame.height, i) for i, (frame, _) in enumerate(folds)]),
        )

    @property
    def _options(self) -> dict[str, Any]:
        return {"grouped": bool(self.groups), "size": self.size}

    def __call__(self, rows: pl.DataFrame, scores: Sequence[Scores], fold: int) -> ScoredRowSample:
        refuse_classes_only(scores[0], self.target, self.framework)
        codes = own_codes(scores[0])
        numbers = [
            *plain_values(scores[0], self.target).T,
            *self.target.truth(rows).reshape(rows.height, len(self.target.columns)).T,
            weights(rows, self.weight),
            np.full(rows.height, fold),
            *([] if codes is None else codes.T),
        ]
        columns = [pl.Series(str(i), np.asarray(c, np.float64)) for i, c in enumerate(numbers)]
        if self.groups:
            columns.append(group_texts(rows, self.groups).alias(str(len(columns))))
        table = pl.DataFrame(columns)
        query = ScoredRowSample.query(table.lazy(), *(pl.col(c.name) for c in columns), **self._options)
        assert query is not None
        return ScoredRowSample.of(query.collect(), **self._options)

    def merged(self, states: Iterable[ScoredRowSample]) -> CalibrationRows:
        """Return the rows of all parts."""
        table = ScoredRowSample.merge_all(states, **self._options).rows
        k, t = self.target.n_outputs, len(self.target.columns)
        texts = table[table.columns[-2]] if self.groups else None
        numbers = table.drop("n", *([] if texts is None else [texts.name])).to_numpy()
        counts = table["n"].cast(pl.Float64).to_numpy()
        codes = numbers[:, k + t + 2 :].astype(np.int64)
        outcome = Outcome(self.target, numbers[:, :k].copy(), codes if codes.shape[1] else None, groups=texts)
        truth, weight, folds = numbers[:, k : k + t], numbers[:, k + t], numbers[:, k + t + 1].astype(np.int64)
        return CalibrationRows(outcome, truth, weight * counts, counts, folds)


def weights(frame: pl.DataFrame, name: str | None) -> Any:
    """Return the weight of each row, 1 without a column of weights. Raises DataError when one is negative or no number."""
    return np.ones(frame.height) if name is None else row_weights(frame[name]).to_numpy()


def refuse_classes_only(scores: Scores, target: Target, framework: str) -> None:
    """Raise ParameterError for a classifier that answers with classes only: there is nothing to learn from."""
    if only_codes(scores, target) or (scores.dtype.names == ("code",) and not has_probabilities(scores)):
        raise ParameterError(
            f"{WHERE}: this {framework} model predicts classes only, and the stages need probabilities.",
            "Expected a classifier with scores.",
            "train with an objective that gives probabilities.",
        )
