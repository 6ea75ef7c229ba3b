"""The registry: ids give classes, unknown ones the nearest name, and the type of data its engine."""

from __future__ import annotations

import datetime
import gc
import importlib
from typing import Any, ClassVar

import polars as pl
import pytest

from rayline import ParameterError
from rayline.core import registry


def test_every_stage_has_the_name_of_its_class() -> None:
    for name in registry.stages():
        assert registry.stage(name).__name__ == name


def test_every_place_in_the_registry_is_there() -> None:
    tables: list[dict[str, Any]] = [
        registry._STAGES,
        registry._POSTPROCESSING,
        registry._PIPELINE_METHODS,
        registry._ENGINES,
    ]
    for place in [place for table in tables for place in table.values() if isinstance(place, str)]:
        module, _, name = place.partition(":")
        assert hasattr(importlib.import_module(module), name), place


@pytest.mark.parametrize(
    ("look_up", "wrong", "near"),
    [
        (registry.stage, "StandardScalr", "StandardScaler"),
        (registry.postprocessing_stage, "Calibrat", "Calibrate"),
        (registry.framework, "xgbost", "xgboost"),
    ],
)
def test_an_unknown_id_names_the_nearest(look_up: Any, wrong: str, near: str) -> None:
    with pytest.raises(ParameterError, match=f"unknown .* '{wrong}'") as caught:
        look_up(wrong)
    assert near in str(caught.value)


def test_a_class_of_the_users_own_is_found_until_it_is_forgotten() -> None:
    class Mine:
        name: ClassVar[str] = "mine of test_registry"

        def owns(self, model: object) -> bool:
            return isinstance(model, datetime.timedelta)

    assert registry.register_framework(Mine) is Mine
    try:
        assert registry.framework(Mine.name) is registry.framework(Mine.name)  # one instance
        assert registry.owner(datetime.timedelta()) == Mine.name
        assert registry.runtime_class(Mine.name) is Mine
        assert Mine.name in registry.frameworks()
        assert Mine.name not in registry.own_frameworks()
    finally:
        registry.forget_framework(Mine.name)
    assert registry.owner(datetime.timedelta()) is None
    with pytest.raises(ParameterError, match="mine of test_registry"):
        registry.framework(Mine.name)


def test_a_framework_needs_a_name() -> None:
    with pytest.raises(ParameterError, match="Nameless has no name"):
        registry.register_framework(type("Nameless", (), {}))


def test_functions_by_name() -> None:
    registry.register_function("triple of test_registry", lambda x: x * 3)
    assert registry.function("triple of test_registry")(2) == 6
    with pytest.raises(ParameterError, match="no function is registered as 'quadruple'"):
        registry.function("quadruple")


@pytest.mark.parametrize("data", [pl.DataFrame({"x": [1]}), pl.LazyFrame({"x": [1]}), {"x": [1]}, [{"x": 1}]])
def test_tables_have_the_engine_of_this_process(data: Any) -> None:
    assert type(registry.engine_for(data)) is type(registry.engine("local"))


def test_ray_has_its_own_engine() -> None:
    dataset = type("Dataset", (), {"__module__": "ray.data.dataset"})()
    assert type(registry.engine_for(dataset)).__name__ == "RayEngine"


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_collection_is_as_it_was_after_an_import(*, enabled: bool) -> None:
    try:
        if not enabled:
            gc.disable()
        assert registry._load("rayline.stages.scale:StandardScaler").__name__ == "StandardScaler"
        with pytest.raises(ImportError):
            registry._load("no_such_package:Stage")
        assert gc.isenabled() is enabled
    finally:
        gc.enable()


def test_garbage_is_not_collected_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(importlib, "import_module", lambda name: seen.append(gc.isenabled()) or gc)
    assert registry._load("anything:isenabled") is gc.isenabled
    assert seen == [False]
    assert gc.isenabled()
