"""Stages with statistics of their own, fitted and applied on Ray: what the same table gives in this process."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from rayline import stages
from rayline.core.statistics.sketches import FrequentValues
from rayline.inference.pipeline import Preprocessor
from rayline.testing.edge_cases import example_table

TABLE = example_table(300).drop("tags", "time", "day")


@pytest.mark.ray
def test_the_same_as_in_process(ray_session: Any) -> None:
    import ray

    chain = [
        ("knn", stages.KNNImputer(["amount", "count"], max_donors=50)),
        ("power", stages.PowerTransformer(["price"])),
        ("spline", stages.SplineTransformer(["amount"], knots="quantile")),
        ("bins", stages.KBinsDiscretizer(["small"], strategy="kmeans")),
        ("target", stages.TargetEncoder(["city"])),
        ("common", stages.FrequencyEncoder(["value"])),
        ("words", stages.CountVectorizer(stop_words=["late"])),
        ("even", stages.SMOTE(["price", "count"])),
    ]
    table = TABLE.with_columns(y=pl.when(pl.col("price") > 6).then(pl.lit("dear")).otherwise(pl.lit("cheap")))
    dataset = ray.data.from_arrow([table.slice(start, 100).to_arrow() for start in (0, 100, 200)])
    here = Preprocessor(chain).fit(table, target_columns="y")
    there = Preprocessor(chain).fit(dataset, target_columns="y")
    assert there.output_schema == here.output_schema
    wanted, found = (
        here.transform(table),
        pl.concat([pl.from_arrow(t) for t in there.transform(dataset).iter_batches(batch_format="pyarrow")]),  # type: ignore[type-var]
    )
    by = ["price", "amount_sp_0", "small"]
    assert_frame_equal(found.select(wanted.columns).drop("note").sort(by), wanted.drop("note").sort(by), rel_tol=1e-9)  # type: ignore[union-attr]
    rows = here.transform_training(table).height
    assert rows > table.height
    assert there.transform_training(dataset).count() == rows


def test_a_sketch_has_a_size_that_travels() -> None:
    values = pl.DataFrame({"value": [str(i) for i in range(50)], "n": [1] * 50})
    assert FrequentValues.of(values["value"], values["n"]).cells.nbytes < 14e6
