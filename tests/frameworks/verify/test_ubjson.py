from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
import xgboost

from rayline.core.errors import ArtifactError
from rayline.frameworks.verify import ubjson


@pytest.fixture(scope="module")
def booster() -> Any:
    x = np.random.default_rng(0).normal(size=(60, 3))
    return xgboost.train({"nthread": 1}, xgboost.DMatrix(x, x[:, 0]), 3)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def test_it_reads_what_xgboost_writes(booster: Any) -> None:
    def rounded(value: Any) -> Any:
        if isinstance(value, float):
            return float(np.float32(value))
        if isinstance(value, dict):
            return {key: rounded(inner) for key, inner in value.items()}
        return [rounded(inner) for inner in value] if isinstance(value, list) else value

    read = _plain(ubjson.loads(bytes(booster.save_raw("ubj")), "x"))
    assert rounded(read) == rounded(json.loads(bytes(booster.save_raw("json"))))


def test_a_file_cut_short_or_with_more_behind_it_is_refused(booster: Any) -> None:
    whole = bytes(booster.save_raw("ubj"))
    for length in random.Random(1).sample(range(len(whole)), 200):
        with pytest.raises(ArtifactError):
            ubjson.loads(whole[:length], "x")
    with pytest.raises(ArtifactError, match="data after its end"):
        ubjson.loads(whole + b"Z", "x")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"[" * 100 + b"]" * 100, "nested deeper"),
        (b"{i\x01aZi\x01aZ}", "occurs twice"),
        (b"[$d#L" + (2**60).to_bytes(8, "big"), "longer than the file"),
        (b"[#L" + (2**60).to_bytes(8, "big"), "longer than the file"),
        (b"SL" + (2**63).to_bytes(8, "big"), "longer than the file"),
        (b"SZ", "no integer"),
        (b"[$Z#i\x05", "no such type"),
        (b"N", "no type"),
        (b"Si\x01\xff", "not UTF-8"),
        (b"", "cut short"),
    ],
)
def test_what_is_none_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ArtifactError, match=reason):
        ubjson.loads(data, "x")
