"""An artifact of every format version and kind, kept as a file: what was saved once is loaded with every version.

When the format changes, raise `artifact.FORMAT_VERSION` and add its files beside these, which stay:
`python -c "from tests.inference.test_golden import make; make()"`.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rayline as rl
from rayline.inference import artifact
from rayline.inference.manifest import POSTPROCESSED_VERSION
from rayline.postprocess import Calibrate, Conformal, Threshold
from tests.inference import hostile

FOLDER = Path(__file__).parent / "golden"
FILES = sorted(FOLDER.glob("*/*.rayline"))
NEEDS = {"ensemble": "lightgbm"}


def make() -> None:
    """Write the files of the present format version."""
    folder = FOLDER / f"format-{artifact.FORMAT_VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    for kind in hostile.KINDS:
        pipeline = hostile.pipeline(kind)
        pipeline.save(folder / f"{kind}.rayline")
        (folder / f"{kind}.json").write_text(json.dumps(_predicted(pipeline)))


def make_postprocessed() -> None:
    """Write the file of format 2: stages after the model."""
    folder = FOLDER / f"format-{POSTPROCESSED_VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    stages = [Calibrate("isotonic"), Threshold("f1", pos_label="yes"), Conformal(0.8)]
    pipeline = hostile.pipeline("xgboost").calibrated(stages, hostile.BINARY)
    pipeline.save(folder / "xgboost.rayline")
    (folder / "xgboost.json").write_text(json.dumps(_predicted(pipeline)))


def _predicted(pipeline: rl.InferencePipeline) -> Any:
    """The scores of the table, as lists; of decisions the probabilities."""
    scores = pipeline.scores(hostile.BINARY.lazy())
    scores = scores if scores.dtype.names is None else scores["probability"]
    return np.asarray(scores, np.float64).round(7).tolist()


def _skip_without(kind: str) -> None:
    needed = NEEDS.get(kind, kind.partition("-")[0])
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")


def test_every_kind_of_this_format_version_is_kept() -> None:
    assert {p.stem for p in FILES if p.parent.name == f"format-{artifact.FORMAT_VERSION}"} == {*hostile.KINDS}


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_it_loads_and_predicts_as_it_did(file: Path) -> None:
    _skip_without(file.stem)
    pipeline = rl.load(file)
    expected = json.loads(file.with_suffix(".json").read_text())
    assert np.allclose(_predicted(pipeline), expected, rtol=1e-5, atol=1e-6)
    assert pipeline.predict(hostile.BINARY).height == hostile.BINARY.height


WATCH = """
import pathlib, sys, warnings
warnings.simplefilter("ignore")
import rayline as rl
from tests import toy
files, table = sys.argv[1:], toy.table()
for file in files:  # imports libraries, which is running code too
    rl.load(file).predict(table)
seen = []
bad = ("pickle.find_class", "exec", "compile", "marshal.loads", "subprocess.Popen", "os.system", "os.exec", "os.fork",
       "os.posix_spawn", "os.startfile", "pty.spawn", "socket.connect", "socket.getaddrinfo", "ctypes.dlopen", "code.__new__")
def hook(event, args):
    # NumPy reads the header of an .npy file through ast.literal_eval: parsed, never run (there is no exec).
    header = event == "compile" and args[1] == "<unknown>" and bytes(args[0]).startswith(b"{'descr'")
    if event.startswith(bad) and not header:
        seen.append((event, str(args)[:200]))
    if event == "open" and isinstance(args[1], str) and {*args[1]} & {*"wax+"} and "/rayline-" not in str(args[0]):
        seen.append((event, str(args)[:200]))
sys.addaudithook(hook)
for file in files:
    rl.load(file).predict(table)
assert not seen, seen
"""

CHEAP = ("xgboost", "xgboost-categories", "lightgbm", "sklearn", "sklearn-forest", "ensemble")


@pytest.mark.parametrize(
    "kinds", [CHEAP, pytest.param(tuple(k for k in hostile.KINDS if k not in CHEAP), marks=pytest.mark.slow)]
)
def test_loading_runs_no_code_of_the_file(kinds: tuple[str, ...]) -> None:
    """No unpickling, no compiling, no process, no connection, and no file written outside of a temporary directory."""
    files = [
        str(f)
        for f in FILES
        if f.stem in kinds and importlib.util.find_spec(NEEDS.get(f.stem, f.stem.partition("-")[0]))
    ]
    assert files
    done = subprocess.run(
        [sys.executable, "-c", WATCH, *files],
        cwd=hostile.ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_fresh_process_opens_one_quickly() -> None:
    """Without Ray and without the code of training. In seconds of the processor, as others may be at work; most of them are
    XGBoost's own import (`make bench` measures both)."""
    file = FOLDER / f"format-{artifact.FORMAT_VERSION}" / "xgboost.rayline"
    code = (
        "import time; start = time.process_time()\n"
        f"import sys, rayline; rayline.load({str(file)!r}); print(time.process_time() - start)\n"
        "bad = [m for m in sys.modules if m.split('.')[0] in ('ray', 'torch') or m.startswith('rayline.train')]\n"
        "assert not bad, bad\n"
    )
    seconds = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(2)
    ]
    assert min(seconds) < 4
