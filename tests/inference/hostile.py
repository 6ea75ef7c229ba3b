"""Artifacts whose model was changed by someone who also made the hashes right, and the process that opens them.

`python -m tests.inference.hostile KIND SEED TRUNCATIONS FLIPS VALUES` opens them one after the other and says on each
line which one it is at, so that the one that ended the process is known.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

import rayline as rl
from rayline import train
from rayline.core import strict_json
from rayline.inference import archive
from rayline.inference.ensemble import combine
from rayline.inference.manifest import OUTER
from rayline.stages import OneHotEncoder, SimpleImputer
from tests import toy

ROOT = Path(__file__).parents[2]
MODES = {
    "numbers": [("impute", SimpleImputer()), ("onehot", OneHotEncoder())],
    "categories": [("impute", SimpleImputer())],
}

BINARY = toy.table()
MANY = BINARY.with_columns(late=pl.col("late") + pl.when(pl.col("size") == 1).then(pl.lit("?")).otherwise(pl.lit("")))
NUMBER = BINARY.with_columns(late=pl.col("size") * 1.5 + pl.col("age").fill_null(0))
SEVERAL = NUMBER.with_columns(early=pl.col("size") - 1.0)


def _xgboost(table: pl.DataFrame = BINARY, mode: str = "numbers", n: int = 4, **params: Any) -> Any:
    return train.XGBoostTrainer({"nthread": 1, "min_child_weight": 0, **params}, num_boost_round=n), table, mode


def _lightgbm(table: pl.DataFrame = BINARY, mode: str = "numbers", n: int = 4, **params: Any) -> Any:
    few = {"num_threads": 1, "min_data_in_leaf": 2, "min_data_per_group": 2, "cat_smooth": 0, "max_cat_to_onehot": 1}
    return train.LightGBMTrainer({**few, **params}, num_boost_round=n), table, mode


def _catboost(table: pl.DataFrame = BINARY, mode: str = "numbers", **params: Any) -> Any:
    return train.CatBoostTrainer({"thread_count": 1, "iterations": 4, "depth": 3, **params}), table, mode


def _sklearn(name: str, table: pl.DataFrame = BINARY, **params: Any) -> Any:
    import importlib

    module, _, cls = name.rpartition(".")
    return train.SklearnTrainer(getattr(importlib.import_module(f"sklearn.{module}"), cls)(**params)), table, "numbers"


def _sparse_steps() -> Any:
    from sklearn.linear_model import SGDClassifier
    from sklearn.preprocessing import OneHotEncoder as OneHot

    return [("codes", OneHot(handle_unknown="ignore")), ("sparse", SGDClassifier(loss="log_loss", random_state=0))]


def _torch(table: pl.DataFrame = BINARY) -> Any:
    return train.TorchTrainer("MLP", max_epochs=1), table, "numbers"


KINDS: dict[str, Any] = {
    "xgboost": _xgboost,
    "xgboost-categories": lambda: _xgboost(MANY, "categories", max_cat_to_onehot=1),
    "xgboost-several": lambda: _xgboost(SEVERAL, multi_strategy="multi_output_tree"),
    "xgboost-dart": lambda: _xgboost(booster="dart", rate_drop=0.5),
    "xgboost-linear": lambda: _xgboost(booster="gblinear"),
    "xgboost-pruned": lambda: _xgboost(tree_method="exact", gamma=0.2),
    "lightgbm": _lightgbm,
    "lightgbm-categories": lambda: _lightgbm(MANY, "categories"),
    "lightgbm-linear": lambda: _lightgbm(NUMBER, linear_tree=True),
    "catboost": _catboost,
    "catboost-categories": lambda: _catboost(BINARY, "categories", one_hot_max_size=1),
    "catboost-deep": lambda: _catboost(MANY, grow_policy="Lossguide"),
    "sklearn": lambda: _sklearn("linear_model.LogisticRegression"),
    "sklearn-forest": lambda: _sklearn("ensemble.RandomForestClassifier", n_estimators=3),
    "sklearn-boosting": lambda: _sklearn("ensemble.GradientBoostingRegressor", NUMBER, n_estimators=3),
    "sklearn-histogram": lambda: _sklearn("ensemble.HistGradientBoostingClassifier", MANY, max_iter=3, min_samples_leaf=2),
    "sklearn-svm": lambda: _sklearn("svm.SVC", MANY, probability=True),
    "sklearn-neighbors": lambda: _sklearn("neighbors.KNeighborsClassifier", BINARY, algorithm="brute"),
    "sklearn-text": lambda: _sklearn("pipeline.Pipeline", BINARY, steps=_sparse_steps()),
    "torch": _torch,
    "ensemble": lambda: None,
}  # fmt: skip


def pipeline(kind: str) -> rl.InferencePipeline:
    """A small pipeline of this kind, with a few example rows."""
    if kind == "ensemble":
        return combine([pipeline("xgboost"), pipeline("lightgbm")], [1.0, 2.0])
    trainer, table, mode = KINDS[kind]()
    targets = [name for name in ("late", "early") if name in table.columns]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = trainer.replace({}).fit(rl.Preprocessor(MODES[mode]), table, target_columns=targets, verbose=False)  # type: ignore[arg-type]
    made: rl.InferencePipeline = result.inference_pipeline
    return made


def reseal(members: dict[str, bytes], **changes: bytes) -> dict[str, bytes]:
    """An attacker's members: changed ones with right sizes and hashes, and no golden rows to give them away."""
    made = {**members, "golden.json": strict_json.dumps({"rows": [], "scores": []}), **changes}
    manifest = strict_json.loads(members["manifest.json"], "manifest.json")
    body = {name: content for name, content in made.items() if name not in OUTER}
    manifest["members"] = {
        name: {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in body.items()
    }
    return sealed({**made, "manifest.json": strict_json.dumps(manifest)})


def sealed(members: dict[str, bytes]) -> dict[str, bytes]:
    """Members with the right digest of their manifest."""
    return {**members, "digest": hashlib.sha256(members["manifest.json"]).hexdigest().encode()}


def changed(content: bytes, seed: int, truncations: int, flips: int, values: int) -> Iterator[tuple[str, bytes]]:
    """Files made of this one: cut short, with one bit flipped, with one number replaced by one that hurts. In an archive
    half of the changes are made to a member, and its checksum made right."""
    rng = random.Random(seed)
    if content[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            inner = {name: file.read(name) for name in file.namelist()}
        for i in range((flips + values) // 2):
            name = rng.choice([*inner])
            what, made = next(changed(inner[name], rng.randrange(2**32), 0, i % 2, 1))
            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w") as file:
                for other, kept in inner.items():
                    file.writestr(other, made if other == name else kept)
            yield f"{name}: {what}", buffer.getvalue()
        flips, values = flips // 2, values // 2
    for i in range(truncations):
        place = len(content) * i // truncations
        yield f"cut at {place}", content[:place]
    for _ in range(flips):
        place, bit = rng.randrange(len(content)), rng.randrange(8)
        made = bytearray(content)  # type: ignore[assignment]
        made[place] ^= 1 << bit  # type: ignore[index]
        yield f"bit {bit} of byte {place}", bytes(made)
    for _ in range(values):
        yield _replaced(content, rng)


NUMBERS = (0, 1, 2, 7, 255, 2**31 - 1, 2**31, 2**32 - 1, -1, -2, -(2**31), 2**63 - 1, -(2**63))


def _replaced(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """One number written in the text, or four or eight bytes of it, replaced."""
    value, place = rng.choice(NUMBERS), rng.randrange(max(1, len(content) - 8))
    digits = [i for i in range(place, min(len(content), place + 400)) if chr(content[i]).isdigit()]
    if digits and rng.random() < 0.7:
        end = digits[0]
        while end < len(content) and chr(content[end]).isdigit():
            end += 1
        return f"text {value} at {digits[0]}", content[: digits[0]] + str(value).encode() + content[end:]
    packed = struct.pack(rng.choice([">q", "<q"]), value) if rng.random() < 0.5 else struct.pack(
        rng.choice([">I", "<I"]), value & 0xFFFF_FFFF
    )  # fmt: skip
    return f"bytes {packed.hex()} at {place}", content[:place] + packed + content[place + len(packed) :]


def members_of(pipeline: rl.InferencePipeline) -> dict[str, bytes]:
    """What is saved of a pipeline, by name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.rayline"
        pipeline.save(path)
        with archive.opened(path) as members:
            return {name: members.read(name) for name in members.sizes}


def as_file(members: dict[str, bytes]) -> bytes:
    """Members as one file, as an attacker would write it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def attack(kind: str, seed: int, truncations: int, flips: int, values: int, folder: str) -> None:
    """Open them all. Ends the process badly when one is neither refused by a typed error nor predicts."""
    warnings.simplefilter("ignore")
    members = members_of(pipeline(kind))
    names, path = [name for name in members if name.startswith("model/")], Path(folder) / "changed.rayline"
    share = [max(1, count // len(names)) if count else 0 for count in (truncations, flips, values)]
    small, large = BINARY, pl.concat([BINARY] * 110)
    before, refused, n = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0, 0
    for name in names:
        for what, content in changed(members[name], seed, *share):
            print(f"{name}: {what}", flush=True)
            started = time.process_time()
            n += 1
            path.write_bytes(as_file(reseal(members, **{name: content})))
            try:
                opened = rl.load(path)
                for table in (small, large):
                    assert opened.predict(table).height == table.height
                opened.predict(small.to_dicts()[:1])
                opened.model.importance()
            except rl.RaylineError:
                refused += 1
            assert time.process_time() - started < 20, "slow"
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
    assert grown_mib < 1500, f"{grown_mib} MiB"
    print(f"done: {n} opened, {refused} refused, {grown_mib} MiB more", flush=True)


def run(kind: str, seed: int, truncations: int, flips: int, values: int) -> str:
    """`attack` in a process of its own. Returns its last line; raises AssertionError when it did not come to its end."""
    command = [sys.executable, "-m", "tests.inference.hostile", kind, *map(str, (seed, truncations, flips, values))]
    alone = {**os.environ, "POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"}  # many small steps, no large one
    done = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True, check=False, timeout=1800)
    last = done.stdout.strip().rpartition("\n")[2]
    assert done.returncode == 0, f"{kind}: {last}\n{done.returncode} {done.stderr[-1500:]}"
    return last


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as own:
        attack(sys.argv[1], *map(int, sys.argv[2:]), own)  # type: ignore[arg-type, call-arg]
