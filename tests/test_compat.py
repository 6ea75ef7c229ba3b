"""Private names of other libraries: each is there in the installed version, and its fallback works without it.

Covers `compat` too.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import pickle
import re
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from packaging.version import Version

from rayline.compat import boosting, deep_learning, ray_serve, ray_tune
from rayline.compat import ray as ray_names
from rayline.compat import sklearn as sklearn_names
from rayline.compat import uvicorn as uvicorn_names
from rayline.compat.private_name import PRIVATE_NAMES, PrivateName

SOURCE = Path(ray_names.__file__).parents[1]
FILES = sorted(path for path in SOURCE.rglob("*.py") if path.parent.name != "compat")


@pytest.fixture
def without_private_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PrivateName, "find", lambda name: None)


def _needs_library(name: PrivateName) -> None:
    pytest.importorskip("gymnasium" if name.path.startswith("ray.rllib") else re.split("[.:]", name.path)[0])
    package = name.seen.split()[0]
    if name.since and Version(metadata.version(package)) < Version(name.since):
        assert name.find() is None, f"{name.path} is in {package} before {name.since}"
        pytest.skip(f"{package} {name.since} or later has it")


@pytest.mark.parametrize("name", PRIVATE_NAMES, ids=lambda name: name.path)
def test_private_name_is_there(name: PrivateName) -> None:
    _needs_library(name)
    assert name.find() is not None, (
        f"{name.path} (last seen in {name.seen}) is missing. It is used for: {name.use} "
        f"Until rayline.compat knows the new name: {name.fallback}"
    )


def test_a_missing_name_is_none() -> None:
    for path in ("no_such_library:name", "json:no_such_name", "json._no_such_module:name"):
        assert PrivateName(path, "", "", "").find() is None


@pytest.mark.parametrize("name", [name for name in PRIVATE_NAMES if name.attributes], ids=lambda name: name.path)
def test_private_attributes_are_there(name: PrivateName) -> None:
    _needs_library(name)
    found = name.find()
    classes = found.__mro__[:-1] if isinstance(found, type) else [found]
    source = "".join(inspect.getsource(inspect.unwrap(part)) for part in classes)
    assert not [attribute for attribute in name.attributes if not re.search(rf"\b{attribute}\b", source)], name.seen


def private_names(path: Path) -> set[str]:
    """Every private attribute, keyword argument and string that has the form of one."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.keyword) and node.arg:
            found.add(node.arg)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            found.add(node.value)
    return {name for name in found if re.match("_[a-zA-Z]", name)}


def defined_names(path: Path) -> set[str]:
    """Every name that a file gives to something of its own."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.id if isinstance(node, ast.Name) else node.attr)
    return found


NAMED_TUPLE = {"_asdict", "_fields", "_replace"}
SUFFIXES = {
    "evaluate/compare.py": {"_high", "_low"},
    "frameworks/verify/xgboost_model.py": {"_nodes", "_segments", "_sizes"},
    "stages/combine.py": {"_per_"},
    "stages/dates.py": {"_cos", "_holiday", "_sin"},
    "stages/discretize.py": {"_bin"},
    "stages/encode.py": {"_infrequent"},
    "stages/splines.py": {"_sp_"},
}
"""Parts of names of columns and of other names."""

SUBCLASSES = {"serve/http_connection.py": {"_unset_keepalive_if_required"}}
"""Methods that a subclass of the library's class inherits; their paths are registered all the same."""


def test_private_attributes_of_libraries_are_used_in_compat_only() -> None:
    own = NAMED_TUPLE.union(*map(defined_names, FILES))
    registered = {name.path.rpartition(".")[2] for name in PRIVATE_NAMES}
    for path in FILES:
        file = str(path.relative_to(SOURCE))
        foreign = private_names(path) - own - SUFFIXES.get(file, set())
        assert foreign == SUBCLASSES.get(file, set()), f"{file}: private names of libraries belong in rayline.compat"
        assert foreign <= registered


def test_private_attributes_are_found(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text("def _own(): ray.init(_temp_dir=1); x.y._z(); getattr(m, '_w')\nself._kept = _own()", "utf-8")
    assert private_names(path) - defined_names(path) == {"_temp_dir", "_z", "_w"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_private_names_are_imported_here_only(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith(("rayline", "_", "__")):
            words = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            words = [word for alias in node.names for word in alias.name.split(".")]
        else:
            continue
        assert not [word for word in words if word.startswith("_")], f"{path}:{node.lineno}"


# -- Attributes of instances, which no name at a module can show ------------------------------------------------------------------


def test_serve_client_keeps_its_controller() -> None:
    pytest.importorskip("ray.serve")
    client = importlib.import_module("ray.serve._private.client").ServeControllerClient
    source = inspect.getsource(client)
    assert "self._controller" in source
    assert "self._shutdown" in source
    controller = importlib.import_module("ray.serve._private.controller").ServeController
    for method in ("graceful_shutdown", "get_http_config", "get_serve_instance_details"):
        assert hasattr(controller, method)


def test_haproxy_settings_reach_the_configuration_as_they_are() -> None:
    jinja2 = pytest.importorskip("jinja2")
    template = ray_serve._HAPROXY_TEMPLATE.find()
    if template is None:
        pytest.skip("no Ray Serve with HAProxy")
    assert "bind *:{{ config.stats_port }}" in template  # the line that serve/ingress.py binds to this machine
    for name, line in ray_serve._HAPROXY_LINES.items():
        value = ray_serve.haproxy_setting(name, "value", "option one", "option two")
        text = jinja2.Template(line).render(config={name.lower(): value})
        assert [part.strip() for part in text.splitlines()] == [
            f"{line.partition(' {{')[0]} value",
            "option one",
            "option two",
        ]


def test_uvicorn_connection_has_what_the_subclass_uses() -> None:
    protocol = pytest.importorskip("uvicorn.protocols.http.httptools_impl").HttpToolsProtocol
    source = inspect.getsource(protocol)
    for word in ("self.parser", "self.transport", "self.expect_100_continue", "self.headers", "self.url", "self.loop"):
        assert word in source
    for method in ("on_response_complete", "on_message_complete", "send_400_response", "data_received"):
        assert hasattr(protocol, method)
    assert "auto" in importlib.import_module("uvicorn.config").HTTP_PROTOCOLS


def test_lightning_trainer_keeps_its_connector() -> None:
    lightning = pytest.importorskip("lightning")
    assert "self._checkpoint_connector" in inspect.getsource(lightning.Trainer.__init__)


def test_ray_data_has_the_fallback_of_ref_bundles() -> None:
    pytest.importorskip("ray.data")
    assert hasattr(importlib.import_module("ray.data").Dataset, "to_arrow_refs")  # the fallback of ref_bundles


def test_a_dataset_with_settings_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class OldDataset:
        def __init__(self) -> None:
            self.context = SimpleNamespace(preserve_order=False)

        def copy(self, other: OldDataset) -> OldDataset:
            raise AssertionError("it shares the settings")

    data = OldDataset()
    ray_names.dataset_for_reading(data).context.preserve_order = True
    assert not data.context.preserve_order


def test_what_searchers_and_schedulers_were_made_with() -> None:
    assert ray_tune.own_space(SimpleNamespace(_space={"x": 1})) == {"x": 1}
    assert ray_tune.own_space(SimpleNamespace(_space={})) is ray_tune.own_space(object()) is None
    assert ray_tune.own_objective(SimpleNamespace(_metric="loss", _mode="min")) == {"metric": "loss", "mode": "min"}
    assert ray_tune.own_objective(object()) == {"metric": None, "mode": None}


def test_a_scorer_is_named_by_its_function() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    assert sklearn_names.scorer_function(metrics.get_scorer("accuracy")) is metrics.accuracy_score
    assert sklearn_names.scorer_function(len) is len


def test_support_vectors_without_an_attribute_are_refused() -> None:
    svm = pytest.importorskip("sklearn.svm")
    model = svm.SVC().fit([[0.0], [1.0], [2.0]], [0, 1, 1])
    assert sklearn_names.support_vectors(model).counts.sum() == len(model.support_)
    del model._probA
    with pytest.raises(ValueError, match="_probA"):
        sklearn_names.support_vectors(model)


@pytest.mark.usefixtures("without_private_names")
def test_a_batch_is_moved_to_the_device_of_the_training() -> None:
    tensor = SimpleNamespace(to=lambda device: f"on {device}")
    trainer = SimpleNamespace(args=SimpleNamespace(device="cpu"))
    assert deep_learning.on_its_device(trainer, {"ids": tensor}) == {"ids": "on cpu"}


# -- Fallbacks -------------------------------------------------------------------------------------------------------------------


def test_xgboost_predicts_the_same_without_its_c_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    xgboost = pytest.importorskip("xgboost")
    from rayline.frameworks import xgboost_predict

    rng = np.random.default_rng(0)
    rows = rng.normal(size=(50, 3)).astype(np.float32)
    model = xgboost.train({"max_depth": 2}, xgboost.DMatrix(rows, label=rows[:, 0]), 4)
    direct = xgboost_predict.scores(model, rows, 3, linear=False)
    monkeypatch.setattr(xgboost_predict, "_LIBRARY", None)
    assert xgboost_predict.scores(model, rows, 3, linear=False).tobytes() == direct.tobytes()


@pytest.mark.usefixtures("without_private_names")
def test_xgboost_library_may_be_missing() -> None:
    assert boosting.xgboost_library() is None


def test_lightgbm_aliases() -> None:
    pytest.importorskip("lightgbm")
    assert {"objective", "application", "loss"} <= {*boosting.lightgbm_aliases("objective")}
    parameters = boosting.lightgbm_parameters()
    assert parameters is not None
    assert "num_trees" in parameters["num_iterations"]


@pytest.mark.usefixtures("without_private_names")
def test_lightgbm_trains_with_main_names_alone() -> None:
    pytest.importorskip("lightgbm")
    from rayline.core.registry import framework

    assert boosting.lightgbm_aliases("objective") == ("objective",)
    assert boosting.lightgbm_parameters() is None
    framework("lightgbm").check({"objective": "regression", "num_iterations": 3})


def test_sklearn_types_without_private_names(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    from sklearn.svm import SVC
    from sklearn.tree import DecisionTreeClassifier

    installed = sklearn_names.sklearn_types.__wrapped__()
    monkeypatch.setattr(PrivateName, "find", lambda name: None)
    fallback = sklearn_names.sklearn_types.__wrapped__()
    assert fallback.tree is installed.tree
    assert isinstance(DecisionTreeClassifier().fit([[0], [1]], [0, 1]).tree_, fallback.tree)
    assert issubclass(SVC, fallback.support_vectors)
    assert issubclass(SVC, installed.support_vectors)
    assert fallback.histogram_record is None
    assert installed.histogram_record != fallback.histogram_record  # no dtype equals it: refused


def test_sklearn_validation_with_and_without_private_names(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    rows = np.zeros((3, 2))
    targets = [np.array([1, 2, 3]), np.array(["a", "b", "a"]), np.array([1.5, 2, 3], object)]
    weights = [2.0, [1, 2, 3], np.array([1, 2, 3], np.float32)]

    def results() -> list[Any]:
        checked = [sklearn_names.sklearn_check_y(y, None, is_numeric=y.dtype.kind != "U") for y in targets]
        checked += [sklearn_names.sklearn_check_sample_weight(weight, rows) for weight in weights]
        for wrong in ([1, 2], [1, 2, np.nan], [[1], [2], [3]]):
            with pytest.raises(ValueError):
                sklearn_names.sklearn_check_sample_weight(wrong, rows)
        with pytest.raises(ValueError):
            sklearn_names.sklearn_check_y(np.array([1.0, np.inf]), None)
        with pytest.raises(ValueError):
            sklearn_names.sklearn_check_y(np.ones((2, 2)), None)
        return checked

    with_names = results()
    monkeypatch.setattr(PrivateName, "find", lambda name: None)
    for expected, got in zip(with_names, results(), strict=True):
        assert got.dtype == expected.dtype
        assert np.array_equal(got, expected)


def test_tables_are_pickled_without_the_gil(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray import cloudpickle

    def holds_it(*arguments: Any) -> Any:
        raise AssertionError("Polars pickles a table itself")

    ray_names.pickle_tables()
    monkeypatch.setattr(pl.DataFrame, "__getstate__", holds_it)
    tables = [
        pl.DataFrame({"x": [1.5, None, float("nan")], "c": ["a", "b", None], "l": [[1, 2], None, []], "b\0": [b"x", None, b""]}),
        pl.DataFrame({"c": ["a", None]}, {"c": pl.Categorical()}),
        pl.DataFrame({"c": ["a", None]}, {"c": pl.Enum(["b", "a"])}),
        pl.DataFrame({"d": ["1.5"], "n": [None]}).with_columns(pl.col("d").cast(pl.Decimal(12, 3))),
        pl.DataFrame({"i": [2**100], "s": [{"a": 1, "b": "x"}]}, {"i": pl.Int128(), "s": pl.Struct({"a": pl.Int8(), "b": pl.String()})}),
        pl.DataFrame({"v": [[1.0, 2.0]]}, {"v": pl.Array(pl.Float32(), 2)}),
        pl.DataFrame(schema={"x": pl.Datetime("ns", "Europe/Oslo")}),
        pl.DataFrame(height=3),
    ]  # fmt: skip
    for table, packed in zip(tables, map(cloudpickle.dumps, tables), strict=True):
        again = pickle.loads(packed)
        assert (again.schema, again.shape) == (table.schema, table.shape)
        assert again.equals(table)
        assert packed == cloudpickle.dumps(table.clone())  # digests of functions depend on it


@pytest.mark.usefixtures("without_private_names")
def test_ray_fallbacks_do_nothing() -> None:
    ray_names.put_cluster_value("key", "value")
    assert ray_names.get_cluster_value("key") is None
    ray_names.delete_cluster_value("key")
    assert ray_tune.registered_environment("CartPole-v1") is None
    assert ray_serve.haproxy_setting("RETRY_ON", "conn-failure", "option x") == "conn-failure"
    uvicorn_names.set_default_http_protocol("module:name")
    assert not ray_names.has_unmet_demand()
    assert ray_names.live_actors() == []


@pytest.mark.usefixtures("without_private_names")
def test_serve_is_shut_down_without_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    serve = pytest.importorskip("ray.serve")
    calls: list[str] = []
    monkeypatch.setattr(serve, "shutdown", lambda: calls.append("shutdown"))
    ray_serve.shut_down_serve()
    assert calls == ["shutdown"]


@pytest.mark.usefixtures("without_private_names")
def test_lightning_checkpoint_without_its_connector(tmp_path: Path) -> None:
    written: list[Any] = []
    trainer = SimpleNamespace(world_size=1, save_checkpoint=written.append)
    deep_learning.save_lightning_checkpoint(trainer, tmp_path / "training.pt")
    assert written == [tmp_path / "training.pt"]
    with pytest.raises(RuntimeError, match="one of several workers"):
        deep_learning.save_lightning_checkpoint(SimpleNamespace(world_size=2), tmp_path / "training.pt")


def test_horovod_server_without_its_socket() -> None:
    closed: list[bool] = []
    deep_learning.close_horovod_server(
        SimpleNamespace(_httpd=SimpleNamespace(server_close=lambda: closed.append(True)))
    )
    deep_learning.close_horovod_server(object())
    assert closed == [True]


@pytest.mark.ray
def test_ref_bundles_with_and_without_the_private_name(ray_session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def rows() -> tuple[int, list[Any]]:
        bundles = list(ray_names.ref_bundles(data))
        n = sum(entry.metadata.num_rows for bundle in bundles for entry in bundle.blocks)
        tables = [table for bundle in bundles for table in ray_session.get(list(bundle.block_refs))]
        return n, sorted(value for table in tables for value in table["id"].to_pylist())

    data = ray_session.data.range(10, override_num_blocks=3).materialize()
    expected = rows()
    monkeypatch.setattr(PrivateName, "find", lambda name: None)
    assert rows() == expected == (10, list(range(10)))


@pytest.mark.ray
def test_cluster_values(ray_session: Any) -> None:
    assert ray_names.get_cluster_value("rayline-test") is None
    ray_names.put_cluster_value("rayline-test", "text")
    assert ray_names.get_cluster_value("rayline-test") == "text"
    ray_names.delete_cluster_value("rayline-test")
    assert ray_names.get_cluster_value("rayline-test") is None


def test_a_trainer_of_ray_train_starts_no_cleaner() -> None:
    class RayTrainer:
        def _create_default_callbacks(self) -> list[Any]:
            cleaner = ray_tune._TRAIN_CLEANER.find()
            return [cleaner.__new__(cleaner), "another"]

    pytest.importorskip("ray.train")
    assert ray_tune.without_placement_group_cleaner(RayTrainer())._create_default_callbacks() == ["another"]


def test_a_trainer_of_ray_train_without_the_names(without_private_names: None) -> None:
    trainer = SimpleNamespace()
    assert ray_tune.without_placement_group_cleaner(trainer) is trainer


@pytest.mark.ray
@pytest.mark.parametrize("n_files", [1, 5, 70])
def test_footers_are_read_where_files_are_listed(ray_session: Any, tmp_path: Path, n_files: int) -> None:
    indexers = pytest.importorskip("rayline.compat.ray_footers")
    for i in range(n_files):
        table = {"i": np.arange(10) + 10 * i, "x": np.full(10, i / 2)}
        importlib.import_module("pyarrow.parquet").write_table(
            importlib.import_module("pyarrow").table(table), tmp_path / f"{i:03d}.parquet", row_group_size=4
        )
    data = ray_session.data.read_parquet(str(tmp_path))
    own = ray_names.dataset_for_reading(data)
    own.context.execution_options.preserve_order = True
    kinds = [type(getattr(node, "file_indexer", None)) for node in own._logical_plan.dag.post_order_iter()]
    assert indexers.FewFootersIndexer in kinds
    assert [row["i"] for row in own.take_all()] == [*range(10 * n_files)]
    assert [row["i"] for row in own.limit(7).take_all()] == [*range(7)]
    column = importlib.import_module("ray.data.expressions").col
    assert [row["x"] for row in own.filter(expr=column("i") >= 10 * n_files - 2).select_columns(["x"]).take_all()] == [
        (n_files - 1) / 2
    ] * 2
    assert own.count() == 10 * n_files
    plain = [type(getattr(node, "file_indexer", None)) for node in data._logical_plan.dag.post_order_iter()]
    assert indexers.FewFootersIndexer not in plain  # the caller's Dataset is as it was


def _listed(sizes: dict[str, list[int]], run: int) -> list[Any]:
    """Manifests as Ray Data lists files with row groups of these sizes in MiB, in runs of some row groups."""
    module = importlib.import_module("ray.data._internal.datasource_v2.formats.parquet.parquet_footer_types")
    manifests = importlib.import_module("ray.data._internal.datasource_v2.interfaces.file_manifest")
    found = []
    for path, groups in sizes.items():
        runs = [[*range(i, min(i + run, len(groups)))] for i in range(0, len(groups), run)]
        own = [[groups[i] << 20 for i in ids] for ids in runs]
        found.append(
            manifests.FileManifest.construct_manifest(
                paths=[path] * len(runs),
                sizes=[1000] * len(runs),
                chunk_metadatas=[
                    manifests.create_chunk_metadata(
                        module.ParquetRowGroupChunkMetadata, row_group_ids=tuple(ids), num_rows=10 * len(ids),
                        uncompressed_size=sum(each), fully_matched=True, rg_sizes=tuple(each) if run > 1 else (),
                        rg_rows=(10,) * len(ids) if run > 1 else (),
                    )
                    for ids, each in zip(runs, own, strict=True)
                ],
            )
        )  # fmt: skip
    return found


def _parts(partitioner: Any, manifests: list[Any]) -> list[list[tuple[str, int]]]:
    """The row groups of each part, in the order in which a task reads them."""
    found = []

    def drain() -> None:
        while partitioner.has_partition():
            part = partitioner.next_partition()
            found.append(
                [(path, i) for path, about in zip(part.paths, part.file_chunk_metadatas, strict=True)
                 for i in about["row_group_ids"]]
            )  # fmt: skip

    for manifest in manifests:
        partitioner.add_input(manifest)
        drain()
    partitioner.finalize()
    drain()
    return found


@pytest.mark.parametrize("run", [1, 3])
@pytest.mark.parametrize(
    ("sizes", "n_parts"),
    [
        ({f"{i}.parquet": [18, 18, 7] for i in range(8)}, (12, 24)),  # Ray Data makes 3 parts of 344 MiB
        ({"a": [1, 2], "b": [3]}, (1, 1)),  # too small to divide
        ({"a": [200], "b": [20] * 3, "c": [5, 90, 40], "d": [1]}, (6, 9)),
        ({f"{i}.parquet": [60, 60] for i in range(40)}, (40, 40)),  # many parts stay as they are
        ({}, (0, 0)),
    ],
)
def test_parts_are_even_and_rows_stay_in_order(sizes: dict[str, list[int]], n_parts: tuple[int, int], run: int) -> None:
    indexers = pytest.importorskip("rayline.compat.ray_footers")
    packer = importlib.import_module("ray.data._internal.datasource_v2.common.online_bin_packer").OnlineBinPacker
    manifests = _listed(sizes, run)
    before = _parts(packer(128 << 20), manifests)
    even = indexers.with_even_parts(packer(128 << 20))
    after = _parts(pickle.loads(pickle.dumps(even)), manifests)
    assert [*itertools.chain(*after)] == [*itertools.chain(*before)]
    assert n_parts[0] <= len(after) <= n_parts[1]
    mib = [sum(sizes[path][i] for path, i in part) for part in after]
    if len(after) > len(before):
        assert max(mib) <= max(40, *(max(groups) for groups in sizes.values()))


def test_other_indexers_stay() -> None:
    indexers = pytest.importorskip("rayline.compat.ray_footers")
    other = SimpleNamespace()
    assert indexers.with_even_parts(other) is other
    assert indexers.with_even_parts(None) is None
    assert indexers.with_footers_in_place(other) is other
    assert indexers.with_footers_in_place(None) is None
