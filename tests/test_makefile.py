"""What the targets of the Makefile and of .ci/run leave out: no test, but one that has passed before in this run of CI."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
OPTIONAL = "torch|transformers|lightning|gymnasium|mlflow|onnxruntime|safetensors|tensorboardX|wandb"
"""Libraries that are not installed for the tests of every day."""


def commands(*arguments: str) -> str:
    """What a target would run."""
    done = subprocess.run(["make", "-n", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def covered(path: Path, places: list[str]) -> bool:
    name = path.relative_to(ROOT).as_posix()
    return any(name == place or name.startswith(f"{place}/") for place in places)


def files(pattern: str) -> list[Path]:
    found = [
        path for path in sorted((ROOT / "tests").rglob("test_*.py")) if re.search(pattern, path.read_text("utf-8"))
    ]
    assert found
    return found


@pytest.mark.parametrize("path", files(rf'importorskip\(\s*"({OPTIONAL})\b'), ids=lambda path: path.stem)
def test_what_is_skipped_without_a_library_is_run_with_it(path: Path) -> None:
    places = re.findall(r"tests/\S+", commands("test-frameworks"))
    assert covered(path, [*places, "tests/test_device_ray.py", "tests/frameworks/test_horovod.py"])


def test_slow_tests_are_in_a_piece() -> None:
    places = re.findall(r"tests/\S+", " ".join(re.findall(r'^  "\d+ (.*)"$', CI, re.MULTILINE)))
    tests = [path for place in places for path in ROOT.glob(place)]
    assert [path for path in files(r"mark\.slow") if not {path, *path.parents} & {*tests}] == []


def test_ci_runs_targets_that_exist() -> None:
    for target in re.findall(r"^step(?:_within \d+)? ([a-z-]+)", CI, re.MULTILINE):
        commands(target)


def test_what_has_passed_is_not_repeated(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/core/test_scores.py"]
    environment = {**os.environ, "RAYLINE_PASSED": str(tmp_path / "passed")}
    environment.pop("PYTEST_XDIST_WORKER", None)
    one = "tests/core/test_scores.py::test_codes_of_several_targets"
    outputs = [
        subprocess.run([*command, *more], cwd=ROOT, env=environment, capture_output=True, text=True, check=False).stdout
        for more in (["-k", "codes_of_several_targets"], [], [])
    ]
    assert (tmp_path / "passed").read_text(encoding="utf-8").splitlines()[0] == one
    for words, output in zip(("1 passed", "1 deselected", " deselected in "), outputs, strict=True):
        assert words in output
    assert "passed" not in outputs[2]
