"""Where columns come from; that nothing else changes them is a law of `rayline.testing`."""

from __future__ import annotations

import polars as pl
import pytest

from rayline import stages
from rayline.inference.pipeline import Preprocessor

TABLE = pl.DataFrame(
    {
        "a": [1.0, None, 3.0, 4.5],
        "b": [2, 3, 4, 7],
        "c": ["u", "v", "u", None],
        "note": ["late plane", "no plane", "crew late again", "storm"],
        "y": [0, 1, 0, 1],
    }
)


def fitted(*named: tuple[str, stages.Stage | Preprocessor]) -> Preprocessor:
    return Preprocessor(list(named)).fit(TABLE, target_columns="y")


def test_through_several_stages() -> None:
    p = fitted(
        ("fill", stages.GroupImputer(["a"], by="c")),
        ("speed", stages.Ratio(["a"], per="b")),
        ("inner", Preprocessor([("log", stages.Log(["b"]))])),
        ("new", stages.Expression(output="twice", formula=["*", ["col", "b"], 2])),
        ("onehot", stages.OneHotEncoder(["c"])),
        ("drop", stages.DropColumns(["note"])),
    )
    assert p.lineage == {
        "a": ("a", "c"),
        "b": ("b",),
        "a_per_b": ("a", "b", "c"),
        "twice": ("b",),
        "c_u": ("c",),
        "c_v": ("c",),
        "c_null": ("c",),
    }
    assert list(p.lineage) == list(p.output_schema)
    assert Preprocessor.from_json(p.to_json()).lineage == p.lineage
    assert p.feature_names_out == list(p.output_schema)


def test_of_combined_columns_and_the_elements_of_vectors() -> None:
    p = fitted(
        ("fill", stages.SimpleImputer(["a"])),
        ("squares", stages.PolynomialFeatures(["a", "b"])),
        ("pca", stages.PCA(["a^2", "b"], n_components=1)),
        ("words", stages.CountVectorizer(["note"])),
        ("vector", stages.Concatenator(["a", "a b"], output="both")),
        ("drop", stages.DropColumns(["c", "b^2"])),
    )
    assert p.lineage == {"note": ("note",), "pca0": ("a", "b"), "both": ("a", "b")}
    words = ["again", "crew", "late", "no", "plane", "storm"]
    assert p.feature_names_out == [*(f"note_{w}" for w in words), "pca0", "both_a", "both_a b"]
    assert p.features_of["both"] == {"both_a": ("a",), "both_a b": ("a", "b")}
    assert p.features_of["note"]["note_late"] == ("note",)


def test_hashed_text_has_numbered_elements() -> None:
    p = fitted(
        ("hash", stages.HashingVectorizer(["note"], n_features=4)), ("drop", stages.DropColumns(["a", "b", "c"]))
    )
    assert p.feature_names_out == ["note_0", "note_1", "note_2", "note_3"]
    assert len(p.feature_names_out) == p.transform(TABLE)["note"].struct.field("size")[0]


@pytest.mark.parametrize("name", ["*", "^a$", "^", "", "ü", " "])
def test_odd_names_are_names(name: str) -> None:
    table = TABLE.rename({"a": name})
    p = Preprocessor([("fill", stages.SimpleImputer([name])), ("scale", stages.MinMaxScaler([name], clip=True))])
    assert p.fit(table).lineage[name] == (name,)
