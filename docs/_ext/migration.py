"""Runs the two columns of each page of docs/migration: `make migration` writes docs/migration/executed.md.

The first column runs in an environment of the other library alone, built below build/peers with the Python that it needs; the
second one runs here. Both read the same flights.parquet and end by printing their area under the ROC curve. Names after the
command run these pages only: `python -m docs._ext.migration autogluon`.
"""

from __future__ import annotations

import datetime
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DOCS = Path(__file__).parents[1]
PAGES, RECORD = DOCS / "migration", DOCS / "migration" / "executed.md"
PEERS_FOLDER = DOCS.parent / "build" / "peers"
BLOCK = re.compile(r"^```(?:py|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)
TIMEOUT_S = 600
HEAD = "| page | library | Python | its column | Rayline's column | on |\n|---|---|---|---|---|---|\n"
RAY = 'import ray; ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)\n'  # however small the machine


@dataclass(frozen=True)
class Peer:
    """A library to come from: its name, the distribution that has its version, what to install with it, and on which Python."""

    name: str
    distribution: str
    requirements: tuple[str, ...]
    python: str = f"{sys.version_info.major}.{sys.version_info.minor}"
    before: str = ""


PEERS = {
    # xgboost-ray, pandas and the others are those of the spring of 2023: newer ones have removed what AIR 2.3 calls.
    "ray_air": Peer(
        "Ray AIR", "ray",
        ("ray[air]==2.3.1", "xgboost-ray==0.1.18", "xgboost<2", "pandas<2", "numpy<1.24", "pydantic<2", "pyarrow<11", "setuptools<70"),
        python="3.10", before=RAY,
    ),
    "ray_train": Peer("Ray Train", "ray", ("ray[data,train,tune]==2.60.*", "xgboost-cpu>=3,<4"), before=RAY),
    "scikit_learn": Peer("scikit-learn", "scikit-learn", ("scikit-learn>=1.9,<1.10", "xgboost-cpu>=3,<4", "pandas", "pyarrow")),
    "autogluon": Peer("AutoGluon", "autogluon.tabular", ("autogluon.tabular[lightgbm,xgboost]==1.6.*", "pyarrow")),
    "mlflow": Peer(
        "MLflow", "mlflow-skinny",
        ("mlflow-skinny==3.17.*", "sqlalchemy>=2,<3", "alembic>=1.13,<2", "scikit-learn>=1.9,<1.10", "skops", "pandas", "pyarrow"),
    ),
}  # fmt: skip


def flights() -> pa.Table:
    """A thousand flights that never took place: hour, distance (missing for far ones), carrier, and whether they are late."""
    random, n = np.random.default_rng(0), 1_000
    hour, distance = random.integers(5, 23, n), random.normal(1000, 300, n)
    late = random.random(n) < 1 / (1 + np.exp(-(hour - 18) / 3))
    carrier = random.choice(["AA", "UA", "B6"], n)
    return pa.table(
        {"hour": hour, "distance": pa.array(distance, mask=distance >= 1500), "carrier": carrier.tolist(), "late": late}
    )


def environment(name: str, peer: Peer) -> Path | None:
    """The Python of the environment of a library, made when it is not there; None without the Python that it needs."""
    python = PEERS_FOLDER / name / "bin" / "python"
    stamp = PEERS_FOLDER / name / "requirements.txt"
    wanted = "\n".join(peer.requirements)
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    found = os.environ.get(f"PYTHON{peer.python}".replace(".", "")) or shutil.which(f"python{peer.python}")
    if found is None:
        return None
    print(f"{name}: installing {', '.join(peer.requirements)} ...", flush=True)
    subprocess.run([found, "-m", "venv", "--clear", PEERS_FOLDER / name], check=True)
    subprocess.run([python, "-m", "pip", "-q", "-q", "install", *peer.requirements], check=True)
    stamp.write_text(wanted, encoding="utf-8")
    return python


def run(python: str | Path, code: str, *, own_source: bool = False) -> str:
    """Run a block in a folder with flights.parquet; return the number that it prints last, and its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(flights(), Path(folder, "flights.parquet"))
        Path(folder, "block.py").write_text(code, encoding="utf-8")
        kept = {name: value for name, value in os.environ.items() if own_source or name != "PYTHONPATH"}
        begun = time.monotonic()
        done = subprocess.run(
            [python, "-W", "ignore", "block.py"], cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
            env={**kept, "RAY_USAGE_STATS_ENABLED": "0", "RAYLINE_QUIET": "1", "RAY_TRAIN_V2_ENABLED": "1"},
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{python} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    printed = re.findall(r"\d\.\d+", done.stdout)
    return f"AUC {float(printed[-1]):.3f}, {time.monotonic() - begun:.0f} s"


def lines() -> dict[str, str]:
    """The line of each page in the record."""
    text = RECORD.read_text(encoding="utf-8") if RECORD.exists() else ""
    return {match[1]: match[0] for match in re.finditer(r"^\| \[.+?\]\((\w+)\.md\) \|.*$", text, re.MULTILINE)}


def main(names: list[str]) -> None:
    for name in names or PEERS:
        peer = PEERS[name]
        python = environment(name, peer)
        if python is None:
            print(f"{name}: left out, it needs Python {peer.python} (PYTHON{peer.python.replace('.', '')}=its path)")
            continue
        before, after = BLOCK.findall((PAGES / f"{name}.md").read_text(encoding="utf-8"))[:2]
        asked = f"import importlib.metadata as m, platform; print(m.version({peer.distribution!r}), platform.python_version())"
        version, number = subprocess.run(
            [python, "-c", asked], capture_output=True, text=True, check=True
        ).stdout.split()
        title = f"[{peer.name}]({name}.md)"
        theirs, ours = run(python, peer.before + before), run(sys.executable, after, own_source=True)
        today = datetime.datetime.now(datetime.UTC).date()
        record = lines() | {
            name: f"| {title} | {peer.distribution} {version} | {number} | {theirs} | {ours} | {today} |"
        }
        print(record[name], flush=True)
        RECORD.write_text(HEAD + "\n".join(record[name] for name in PEERS if name in record) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
