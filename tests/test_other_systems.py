"""The import and the path in this process need nothing that only Linux has: a process in which those calls are hidden walks it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HIDE = {
    "macOS": """
import os, signal, sys
del os.sched_getaffinity, os.sched_setaffinity, os.memfd_create, os.pidfd_open
sys.platform = "darwin"
""",
    "Windows": """
import os, signal, sys
for name in ("sched_getaffinity", "sched_setaffinity", "memfd_create", "pidfd_open", "fork", "register_at_fork", "killpg", "getuid",
             "geteuid", "uname", "mkfifo", "getpgid", "setsid"):
    delattr(os, name)
for name in ("SIGKILL", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGALRM", "pthread_sigmask"):
    delattr(signal, name)
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
""",
}

PATH = """
import pathlib, tempfile
import numpy as np, polars as pl
import rayline as rl
from rayline import data, serve, train, tune
from rayline.stages import OneHotEncoder, SimpleImputer, StandardScaler
random = np.random.default_rng(0)
x = random.normal(size=200)
table = pl.DataFrame({"x": x, "city": random.choice(["a", "b"], 200), "late": x + random.normal(size=200) > 0})
fit, test = data.train_test_split(table, percentage=0.2)
stages = train.Preprocessor([("impute", SimpleImputer()), ("scale", StandardScaler()), ("onehot", OneHotEncoder())])
trainer = train.XGBoostTrainer({"max_depth": 2}, num_boost_round=3)
result = train.fit(trainer, stages, fit, test, ["late"], verbose=False)
with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "late.rayline"
    result.inference_pipeline.save(path)
    loaded = rl.load(path)
    assert loaded.predict(test).equals(result.inference_pipeline.predict(test))
    rl.model_card(loaded, pathlib.Path(folder) / "card.html", data=test)
app = serve.create_app(loaded, name="late")
from fastapi.testclient import TestClient
answer = TestClient(app, base_url="http://localhost").post("/predict", json=test.drop("late").head(2).to_dicts())
assert answer.status_code == 200, answer.text
from typer.testing import CliRunner
from rayline.cli import app as commands
done = CliRunner().invoke(commands, ["doctor", "--quick"])
assert done.exit_code == 0, done.output
import sys
assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()
print("walked")
"""


@pytest.mark.slow
@pytest.mark.parametrize("system", HIDE)
def test_the_path_in_this_process(system: str, tmp_path: Path) -> None:
    # What other libraries use when they are imported is loaded before it is hidden: only Rayline is tested.
    imports = "import asyncio, multiprocessing, subprocess, tempfile, polars, numpy, sklearn, pyarrow, xgboost, fastapi, uvicorn, typer, ray, ray.data, ray.tune, fastapi.testclient, typer.testing, optuna, pandas\n"
    place = tmp_path / ("a-long-name-for-temporary-files-" * 4)
    place.mkdir()
    environment = {**os.environ, "TMPDIR": str(place), "RAYLINE_QUIET": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", imports + HIDE[system] + PATH],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "walked" in done.stdout
