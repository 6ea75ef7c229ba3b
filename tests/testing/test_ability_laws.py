"""Every ability is documented and has a law, and the laws find adapters that break them.

Covers `core.abilities`, `testing.common_laws`, `testing.device_laws`, `testing.features`, `testing.framework_laws`
and `testing.ray_laws` too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rayline import register_framework
from rayline.core.abilities import (
    ABILITIES,
    Ability,
    FeatureContributions,
    FeatureImportance,
    NativeModels,
    abilities_of,
)
from rayline.core.framework import Framework
from rayline.testing import ability_laws, check_framework, common_laws, device_laws, features, framework_laws, ray_laws
from tests import toy

DOCS = Path(__file__).parents[2] / "docs" / "own_framework.md"


@pytest.mark.parametrize("ability", ABILITIES, ids=lambda ability: ability.__name__)
def test_every_ability_has_a_law_and_a_line_in_the_docs(ability: type[Ability]) -> None:
    run = {
        law.__name__
        for module in (framework_laws, ability_laws, common_laws, device_laws, features, ray_laws)
        for laws in (getattr(module, "LAWS", ()), getattr(module, "LAWS_OF_ROWS", ()))
        for law in laws
    }
    assert set(ability_laws.CHECKED_BY[ability]) <= run
    text = DOCS.read_text(encoding="utf-8")
    assert f"`{ability.__name__}`" in text
    members = [name for name in vars(ability) if not name.startswith("_")]
    assert [name for name in members if f"`{name}`" not in text] == []
    assert ability.__doc__


def test_members_belong_to_one_ability_each() -> None:
    names = [name for ability in ABILITIES for name in vars(ability) if not name.startswith("_")]
    assert len(names) == len(set(names))
    assert {name for name in names if name in Framework.__abstractmethods__} == set()
    assert Framework.__abstractmethods__ == {"train", "predict", "save", "load"}


def test_an_ability_is_what_an_adapter_overrides() -> None:
    class Plain(Framework):
        name = "plain"

        def train(self, context: Any) -> Any: ...
        def predict(self, model: Any, features: Any) -> Any: ...
        def save(self, model: Any, directory: Path) -> None: ...
        def load(self, directory: Path) -> Any: ...

    class Ranking(Plain):
        def importance(self, model: Any, names: Any) -> Any:
            return {}

    assert abilities_of(Plain) == []
    assert abilities_of(Ranking) == [FeatureImportance]
    assert abilities_of(toy.LeastSquares) == [NativeModels]


@register_framework
class Boastful(toy.LeastSquares):
    """An adapter with abilities, of which one is wrong at a time."""

    name = "boastful"
    wrong = ""

    def train(self, context: Any, *, wrong: str = "") -> Any:  # type: ignore[override]
        type(self).wrong = wrong
        model = super().train(context)
        context.report(0, {"train-loss": 1.0})
        return model

    def owns(self, model: Any) -> bool:
        return False

    def importance(self, model: Any, names: Any) -> dict[str, float]:
        found = {name: abs(value) for name, value in zip(names, model["w"], strict=True)}
        return {**found, "no such feature": 1.0} if self.wrong == "importance" else found

    def contributions(self, model: Any, features: Any) -> FeatureContributions:
        sign = -1.0 if self.wrong == "contributions" else 1.0
        values = sign * np.nan_to_num(features.matrix(np.float64)) * np.array(model["w"])
        return FeatureContributions(values[:, None, :], np.array([model["b"]]), is_linear=True)

    def best_iteration(self, model: Any) -> int:
        return 7 if self.wrong == "best_iteration" else 0

    def single_row_view(self, model: Any) -> Any:
        return toy.Weights(model, b=model["b"] + 1e-9) if self.wrong == "single_row_view" else model

    def members(self, model: Any, features: Any, target: Any) -> Any:
        values = self.predict(model, features)
        spread = np.array([-1.0, 1.0 if self.wrong != "members" else 2.0])
        return (values[:, None] + spread)[:, :, None]

    def memory_bytes(self, n_rows: int, width: int, n_outputs: int, *, wrong: str = "") -> int:
        return 10_000_000 - n_rows if wrong == "memory_bytes" else n_rows * width * 8

    def owns_callback(self, callback: Any) -> bool:
        return self.wrong == "owns_callback"


@pytest.mark.parametrize(
    ("wrong", "law"),
    [
        ("importance", "ranks_its_features"),
        ("contributions", "explains_its_scores"),
        ("best_iteration", "uses_an_iteration_of_its_history"),
        ("single_row_view", "single_rows_are_the_table"),
        ("members", "is_the_mean_of_its_members"),
        ("memory_bytes", "needs_more_memory_for_more_rows"),
        ("owns_callback", "owns_its_own_callbacks_only"),
    ],
)
def test_a_wrong_ability_is_found(wrong: str, law: str) -> None:
    with pytest.raises(AssertionError, match=f"breaks '{law}'"):
        check_framework("boastful", tasks=["regression"], weights=False, exact=True, wrong=wrong)


def test_right_abilities_pass() -> None:
    check_framework("boastful", tasks=["regression"], weights=False, exact=True)
