"""A training that does not fit is refused with the arithmetic before it starts."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

import rayline as rl
from rayline import train
from rayline.core import memory

TABLE = pl.DataFrame({"a": [1.0, 2.0] * 20, "b": [0.5, 0.25] * 20, "y": [1.0, 3.0] * 20})


def test_a_process_without_room(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = train.LightGBMTrainer({}, num_boost_round=2)
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    with pytest.raises(rl.ResourceError) as caught:
        train.fit(trainer, None, TABLE, target_columns=["y"], verbose=False)
    text = str(caught.value)
    assert "lightgbm needs about 0 MB in this process" in text
    assert "40 rows × 2 features" in text
    assert "34 MB per million rows" in text
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    train.fit(trainer, None, TABLE, target_columns=["y"], verbose=False)


@pytest.mark.ray
def test_workers_without_room(ray_session: Any) -> None:
    trainer = train.LightGBMTrainer({}, num_workers=2, resources_per_worker={"CPU": 0.5, "memory": 100})
    with pytest.raises(rl.ResourceError, match="in each of 2 workers"):
        train.fit(trainer, None, ray_session.data.from_arrow(TABLE.to_arrow()), target_columns=["y"], verbose=False)
