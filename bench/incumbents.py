"""The same model as people serve it today: scikit-learn's Pipeline around XGBClassifier, behind FastAPI, MLflow and BentoML.

Each lives in a virtual environment of its own under `.bench/`, made when it is first needed (a minute or two).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from bench.load import post
from bench.synthetic import FLOATS

PLACE = Path(__file__).parent.parent / ".bench"

FIT = """
import sys, pandas, xgboost
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
folder, trees, floats, categories = sys.argv[1], int(sys.argv[2]), sys.argv[3].split(","), sys.argv[4].split(",")
frame = pandas.read_csv(f"{folder}/data.csv")
numbers = Pipeline([("impute", SimpleImputer()), ("scale", StandardScaler())])
prepare = ColumnTransformer([("n", numbers, floats), ("c", OneHotEncoder(handle_unknown="ignore"), categories)])
model = Pipeline([("prepare", prepare), ("model", xgboost.XGBClassifier(n_estimators=trees))])
model.fit(frame[floats + categories], frame["y"])
"""

JOBLIB = "import joblib; joblib.dump(model, f'{folder}/model.joblib')"

FASTAPI = """
import sys, joblib, pandas, uvicorn
from fastapi import FastAPI
model = joblib.load("model.joblib")
app = FastAPI()

@app.post("/predict")
def predict(rows: list[dict]):
    return {"predictions": model.predict(pandas.DataFrame(rows)).tolist()}

uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False)
"""

BENTOML = """
import bentoml, joblib, pandas

@bentoml.service
class Model:
    def __init__(self) -> None:
        self.model = joblib.load("model.joblib")

    @bentoml.api
    def predict(self, rows: list[dict]) -> list:
        return self.model.predict(pandas.DataFrame(rows)).tolist()
"""


@dataclass(frozen=True)
class Incumbent:
    """One way of serving.

    Attributes
    ----------
    packages
        What its environment contains in addition to scikit-learn, XGBoost and pandas.
    save
        Python that saves the fitted `model` into `folder`.
    code
        The file `served.py`, when there is one.
    command
        What runs it, with {python} and {port} in it.
    path, key
        Where rows are posted, and the key that they stand under; none when they are the whole body.
    """

    name: str
    packages: Sequence[str]
    save: str
    code: str
    command: str
    path: str
    key: str = ""

    @property
    def folder(self) -> Path:
        return PLACE / self.name.lower().partition(" ")[0]

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def prepare(self, data: pl.DataFrame, categories: Sequence[str], trees: int) -> None:
        """Make its environment unless it is there, and fit its model."""
        if not (self.folder / "ready").exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", self.folder], check=True)
            wanted = ["scikit-learn==1.9.1", "xgboost-cpu==3.2.0", "pandas", *self.packages]
            pip = [sys.executable, "-m", "pip", "--python", str(self.python), "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, "install", *wanted], check=True)
            (self.folder / "ready").touch()
        data.with_columns(pl.col("y").cast(pl.Int8)).write_csv(self.folder / "data.csv")
        (self.folder / "served.py").write_text(self.code)
        arguments = [str(self.folder), str(trees), ",".join(FLOATS), ",".join(categories)]
        subprocess.run([self.python, "-c", FIT + self.save, *arguments], check=True, env=self._environment())

    def request(self, rows: list[dict[str, Any]]) -> bytes:
        return post(self.path, {self.key: rows} if self.key else rows)

    @contextlib.contextmanager
    def process(self, port: int) -> Iterator[subprocess.Popen[bytes]]:
        """The running server, in a session of its own: some start further processes."""
        words = [word.format(python=self.python, port=port) for word in self.command.split()]
        process = subprocess.Popen(
            words,
            cwd=self.folder,
            env=self._environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 15)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait()

    def _environment(self) -> dict[str, str]:
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        return kept | {
            "PATH": path,
            "BENTOML_DO_NOT_TRACK": "True",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "BENTOML_HOME": str(self.folder),
        }


INCUMBENTS = [
    Incumbent("FastAPI by hand", ["fastapi", "uvicorn[standard]"], JOBLIB, FASTAPI, "{python} served.py {port}", "/predict"),
    Incumbent(
        "MLflow models serve", ["mlflow-skinny==3.17.2", "uvicorn"],
        "import shutil, mlflow.sklearn; shutil.rmtree(f'{folder}/model', ignore_errors=True); mlflow.sklearn.save_model(model, f'{folder}/model', serialization_format='cloudpickle')",
        "", "{python} -m mlflow models serve -m model -p {port} --env-manager local", "/invocations", "dataframe_records",
    ),
    Incumbent("BentoML", ["bentoml==1.4.40"], JOBLIB, BENTOML, "{python} -m bentoml serve served:Model --port {port}", "/predict", "rows"),
]  # fmt: skip
