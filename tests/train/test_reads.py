"""How often a lazy Dataset is read, as docs/path.md says."""

from __future__ import annotations

from typing import Any

import pytest

from rayline import train, tune
from rayline.stages import SimpleImputer, StandardScaler

pytestmark = pytest.mark.ray

N = 8000
BLOCKS = 0.5
"""Single blocks are read more, for types and examples: as a part of all rows."""


@pytest.fixture(scope="module")
def counter(ray_session: Any) -> Any:
    @ray_session.remote(num_cpus=0)
    class Counter:
        def __init__(self) -> None:
            self.n = 0

        def add(self, n: int) -> None:
            self.n += n

        def take(self) -> int:
            n, self.n = self.n, 0
            return n

    return Counter.remote()  # type: ignore[attr-defined]


def test_each_step_reads_as_often_as_the_docs_say(ray_session: Any, counter: Any) -> None:
    def work(batch: Any) -> Any:
        ray_session.get(counter.add.remote(len(batch["id"])))
        return {"x": batch["id"] * 1.0, "z": batch["id"] % 7 * 1.0, "y": batch["id"] % 2}

    def rows() -> Any:
        return ray_session.data.range(N, override_num_blocks=8).map_batches(work)

    def reads() -> float:
        return float(ray_session.get(counter.take.remote())) / N

    stages = [("impute", SimpleImputer()), ("scale", StandardScaler())]
    fitted = train.Preprocessor(stages).fit(rows(), target_columns=["y"])
    assert fitted.scans <= reads() <= fitted.scans + BLOCKS
    trainer = train.XGBoostTrainer({}, num_boost_round=2)
    trainer.fit(train.Preprocessor(stages), rows(), None, ["y"], verbose=False)
    assert 1 <= reads() <= 1 + 2 * BLOCKS  # the rows fit into the object store, and are kept from the scan on
    result = trainer.fit(fitted, rows(), None, ["y"], verbose=False)
    assert 1 <= reads() <= 1 + 2 * BLOCKS
    tune.run(
        trainer,
        {"train_dataset": rows(), "cv": 2, "target_columns": ["y"]},
        {"max_depth": tune.grid_search([2, 3])},
        verbose=False,
    )
    assert 1 <= reads() <= 1 + BLOCKS
    assert result.inference_pipeline.transform(rows()).count() == N
    assert 1 <= reads() <= 1 + BLOCKS
    trainer.fit(train.Preprocessor(stages), rows().materialize(), None, ["y"], verbose=False)
    assert reads() == 1
