"""`rayline doctor` finds what was broken on purpose."""

from __future__ import annotations

import importlib.metadata as metadata
from collections import namedtuple
from typing import Any

import pytest
from typer.testing import CliRunner

from rayline import doctor
from rayline.cli import app
from rayline.doctor import State, diagnose

REQUIRES = [
    "polars<3,>=2.1",
    "numpy<3,>=2",
    "xgboost-cpu<4,>=3.0; extra == 'xgboost'",
    "rayline[xgboost]; extra == 'boosting'",
    "scipy>=1; extra == 'boosting'",
    "no-such-package; extra == 'lost'",
    "pytest; extra == 'test'",
]


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Installed versions, to be changed by a test; what Rayline requires is REQUIRES."""
    found = {"polars": "2.1.0", "numpy": "2.4.0", "xgboost-cpu": "3.2.0", "scipy": "1.17", "pytest": "9.0"}

    class Metadata:
        def get_all(self, name: str) -> list[str]:
            assert name == "Provides-Extra"
            return ["xgboost", "boosting", "lost", "test"]

    def version(name: str) -> str:
        if name not in found:
            raise metadata.PackageNotFoundError(name)
        return found[name]

    monkeypatch.setattr(metadata, "requires", lambda name: REQUIRES)
    monkeypatch.setattr(metadata, "metadata", lambda name: Metadata())
    monkeypatch.setattr(metadata, "version", version)
    return found


def states(**how: Any) -> dict[str, State]:
    return {f"{f.area} {f.name}": f.state for f in diagnose(imports=False, cluster=False, **how)}


def test_a_good_environment(versions: dict[str, str]) -> None:
    found = states()
    assert found["package polars"] is State.OK
    assert found["extra xgboost"] is State.OK
    assert found["extra boosting"] is State.OK  # an extra of extras
    assert found["extra lost"] is State.ABSENT
    assert "extra test" not in found
    assert State.PROBLEM not in found.values()


def test_wrong_versions(versions: dict[str, str]) -> None:
    versions |= {"polars": "1.9.0", "xgboost-cpu": "2.1"}
    found = {f"{f.area} {f.name}": f for f in diagnose(imports=False, cluster=False)}
    assert found["package polars"].state is State.PROBLEM
    assert found["package polars"].hint == "pip install 'polars<3,>=2.1'"
    assert found["extra xgboost"].state is found["extra boosting"].state is State.PROBLEM
    assert "2.1 is installed" in found["extra boosting"].detail
    del versions["numpy"]
    assert states()["package numpy"] is State.PROBLEM


def test_two_libraries_of_one_name(versions: dict[str, str]) -> None:
    versions["xgboost"] = "3.2.0"
    assert states()["package xgboost"] is State.PROBLEM


def test_a_package_that_does_not_import(versions: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_modules", lambda: {"xgboost-cpu": ["json"], "scipy": ["no_such_module"]})
    found = {f.name: f for f in diagnose(imports=True, cluster=False) if f.area == "extra"}
    assert found["xgboost"].state is State.OK
    assert found["boosting"].state is State.PROBLEM
    assert "No module named 'no_such_module'" in found["boosting"].detail


def test_places(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(64 << 20, 0, 64 << 20))
    found = {f.name: f for f in diagnose(imports=False, cluster=False) if f.area == "place"}
    assert found["temporary files"].state is State.PROBLEM
    if "shared memory" in found:  # Linux
        assert "--shm-size" in found["shared memory"].hint


def test_the_command(versions: dict[str, str]) -> None:
    done = CliRunner().invoke(app, ["doctor", "--quick"])
    assert done.exit_code == 0, done.output
    assert "Nothing is wrong." in done.output
    versions["polars"] = "1.0"
    done = CliRunner().invoke(app, ["doctor", "--quick"])
    assert done.exit_code == 1
    assert "Hint: pip install 'polars<3,>=2.1'" in done.output
