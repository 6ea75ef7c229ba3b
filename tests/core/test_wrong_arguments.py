"""Wrong arguments of public functions: every parameter of the public surface refuses what it cannot use, by name, never with a bare
error of Python, Polars or a framework. Covers `core.arguments` too.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression

import rayline as rl
from rayline import data, evaluate, postprocess, serve, stages, train, tune
from rayline.core import registry
from rayline.core.arguments import check_of, known_arguments

ROOT = Path(__file__).parents[2]
TABLE = pl.DataFrame(
    {"x": [0.0, 1.0, 2.0, 3.0] * 10, "c": ["a", "b", "b", "c"] * 10, "late": ["no", "no", "yes", "yes"] * 10}
)
ROWS = TABLE.drop("late")
WRONG: list[Any] = [-1, 0.5, float("nan"), "no such", b"x", [1], {"x": 1}, object(), TABLE]

Call = tuple[str, Callable[..., Any], Mapping[str, Any]]
"""The name of a public function, the function, and arguments that it accepts."""

NOT_CALLED = {
    **dict.fromkeys(("ColumnStage", "Framework", "Stage", "Callback", "Tracker", "Splitter", "MetricStatistic"), "a base class"),
    **dict.fromkeys(("Estimate", "Folds", "Run", "ScoredBatch", "EvaluationReport", "CrossValidation", "Analysis", "Comparison"), "made by Rayline"),
    **dict.fromkeys(("Result", "Deployment"), "made by Rayline, and its methods are called"),
    **dict.fromkeys(("check_framework", "check_stage", "check_task"), "asserts: what is wrong is what it reports"),
    **dict.fromkeys(("example_table", "task_table", "training_table"), "a table for tests"),
    **dict.fromkeys(("MLflow", "TensorBoard", "WandB"), "needs a library that CI has not"),
    **dict.fromkeys(("HorovodTrainer", "HuggingFaceTrainer", "RLlibTrainer", "TorchTrainer"), "needs a library that CI has not"),
    "from_polars": "starts Ray for the table",
}  # fmt: skip
"""Public names that no sweep calls, and why."""


def stages_of_table() -> train.Preprocessor:
    return train.Preprocessor([("impute", stages.SimpleImputer()), ("onehot", stages.OneHotEncoder())])


def trainer() -> train.XGBoostTrainer:
    return train.XGBoostTrainer({"max_depth": 2, "nthread": 1}, num_boost_round=1, seed=1)


@functools.cache
def result() -> train.Result:
    return train.fit(trainer(), stages_of_table(), TABLE, TABLE, "late", verbose=False)


@functools.cache
def analysis() -> tune.Analysis:
    return tune.run(trainer(), config={"max_depth": tune.randint(1, 4)}, num_samples=2, **SEARCH)


SEARCH: dict[str, Any] = {"train_dataset": TABLE, "target_columns": "late", "cv": 2, "verbose": False}


def stage_calls() -> Iterator[Call]:
    for name in stages.__all__:
        cls = getattr(stages, name)
        if isinstance(cls, type) and issubclass(cls, rl.Stage):
            yield f"stages.{name}", _used(cls, _fit_and_transform), {}
    yield "stages.register_function", stages.register_function, {"name": "same", "function": lambda column: column}
    for name in postprocess.__all__:
        yield f"postprocess.{name}", _used(getattr(postprocess, name), _calibrate), {}
    for name in ("KFold", "StratifiedKFold", "GroupKFold", "TimeSeriesSplit", "RepeatedKFold", "Bootstrap", "Holdout"):
        base = {"GroupKFold": {"column": "c"}, "TimeSeriesSplit": {"column": "x"}, "StratifiedKFold": {"column": "c"}}
        yield f"data.{name}", _used(getattr(data, name), _split), base.get(name, {})
    for name, arguments in {
        "uniform": (0.0, 1.0),
        "loguniform": (1.0, 2.0),
        "randint": (1, 3),
        "randn": (0.0, 1.0),
    }.items():
        function = getattr(tune, name)
        yield f"tune.{name}", function, dict(zip(inspect.signature(function).parameters, arguments, strict=True))
    for name in ("quniform", "qloguniform", "qrandint", "qlograndint", "qrandn", "lograndint"):
        function = getattr(tune, name)
        yield f"tune.{name}", function, dict(zip(inspect.signature(function).parameters, (1, 4, 1), strict=False))


def _used(cls: Callable[..., Any], use: Callable[[Any], Any]) -> Callable[..., Any]:
    """Return the constructor of a class that also uses the object: some values can be judged only then."""

    @functools.wraps(cls, updated=())
    def call(**arguments: Any) -> Any:
        return use(cls(**arguments))

    call.__signature__ = inspect.signature(cls)  # type: ignore[attr-defined]
    return call


def _fit_and_transform(stage: Any) -> Any:
    return train.Preprocessor([("stage", stage)]).fit(TABLE, target_columns="late").transform(TABLE)


def _calibrate(stage: Any) -> Any:
    return result().inference_pipeline.calibrated([stage], TABLE).predict(ROWS)


def _split(splitter: Any) -> Any:
    return list(splitter.split(TABLE, target_columns="late"))


def installed(name: str) -> bool:
    """Whether the libraries of a framework are there."""
    return importlib.util.find_spec({"Sklearn": "skops"}.get(name, name.lower())) is not None


def _fitted(framework: str) -> Callable[..., Any]:
    """Return the constructor of a trainer that also fits it, with the parameters of the trainer and of the framework."""

    def call(**arguments: Any) -> Any:
        made = train.Trainer(framework, **arguments)
        return made.num_workers or train.fit(made, None, TABLE.select("x", "late"), None, "late", verbose=False)

    adapter, common = registry.framework(framework), inspect.signature(train.Trainer).parameters.values()
    own = [p for p in inspect.signature(adapter.train).parameters.values() if p.name != "context"]
    named = [p.replace(kind=p.KEYWORD_ONLY) for p in (*own, *common) if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    call.__signature__ = inspect.Signature([p for p in named if p.name != "framework"])  # type: ignore[attr-defined]
    return call


def method_calls(path: Path) -> Iterator[Call]:
    """Methods of what the path of a user goes through; `path` is a folder to write to."""
    pipeline, fitted = result().inference_pipeline, stages_of_table().fit(ROWS)
    pipeline.save(path / "late.rayline")
    saved = {"path": str(path / "late.rayline")}
    yield "Preprocessor", train.Preprocessor, {}
    yield "Preprocessor.fit", stages_of_table().fit, {"data": ROWS}
    yield "Preprocessor.fit_folds", stages_of_table().fit_folds, {"data": ROWS, "folds": 2}
    yield "Preprocessor.fit_transform", stages_of_table().fit_transform, {"data": ROWS}
    yield "Preprocessor.transform", fitted.transform, {"data": ROWS}
    yield "Preprocessor.inverse_transform", fitted.inverse_transform, {"data": fitted.transform(ROWS)}
    yield "Preprocessor.replace", fitted.replace, {"changes": {}}
    yield "Preprocessor.chain", fitted.chain, {"model": result().model}
    yield "Preprocessor.save", fitted.save, {"path": path / "preprocessor.json"}
    yield "Preprocessor.load", train.Preprocessor.load, {"path": path / "preprocessor.json"}
    yield "InferencePipeline", rl.InferencePipeline, {"preprocessor": fitted, "model": pipeline.model}
    yield "InferencePipeline.predict", pipeline.predict, {"rows": ROWS}
    yield "InferencePipeline.predict_proba", pipeline.predict_proba, {"rows": ROWS}
    yield "InferencePipeline.transform", pipeline.transform, {"data": ROWS}
    yield "InferencePipeline.evaluate", pipeline.evaluate, {"data": TABLE, "replicates": 2}
    yield "InferencePipeline.explain", pipeline.explain, {"rows": ROWS.head(1)}
    yield "InferencePipeline.importance", pipeline.importance, {"kind": "permutation", "rows": TABLE, "n_repeats": 1}
    yield "InferencePipeline.partial_dependence", pipeline.partial_dependence, {"rows": ROWS, "column": "x", "grid": 2}
    yield (
        "InferencePipeline.calibrated",
        pipeline.calibrated,
        {"stages": [postprocess.Calibrate("sigmoid")], "calibration_set": TABLE},
    )
    yield "InferencePipeline.save", pipeline.save, {"path": path / "other.rayline"}
    yield (
        "InferencePipeline.write_predictions",
        pipeline.write_predictions,
        {"data": ROWS, "path": path / "predictions", "resume": True},
    )
    native = {"framework": "xgboost", "native": result().fitted_model}
    yield "Model", rl.Model, {**native, "schema": dict(pipeline.model.schema), "target": pipeline.target}
    yield "Model.predict", pipeline.model.predict, {"rows": fitted.transform(ROWS)}
    yield "Model.predict_proba", pipeline.model.predict_proba, {"rows": fitted.transform(ROWS)}
    yield "load", rl.load, saved
    yield "model_card", rl.model_card, {"pipeline": pipeline}
    yield "compare", rl.compare, {"pipelines": {"a": pipeline, "b": pipeline}, "data": TABLE, "replicates": 2}
    report: Any = pipeline.evaluate(TABLE, replicates=2)
    yield "EvaluationReport.save", report.save, {"path": path / "report.md"}
    yield "EvaluationReport.add_charts", report.add_charts, {"charts": []}
    comparison = rl.compare({"a": pipeline, "b": pipeline}, TABLE, replicates=2)
    yield "PipelineComparison.difference", comparison.difference, {"metric": "roc_auc"}
    yield "PipelineComparison.assert_better", comparison.assert_better, {"metric": "roc_auc"}
    yield "Result.evaluate", result().evaluate, {}
    yield "Result.metric", result().metric, {"name": "auc"}
    yield "Analysis.refit", analysis().refit, {"trial": 0}
    yield "Analysis.predictions", analysis().predictions, {"trial": 0}
    yield "Analysis.scores", analysis().scores, {"trial": 0}
    yield "Analysis.calibrated", analysis().calibrated, {"stages": [postprocess.Calibrate("sigmoid")]}
    yield "Analysis.ensemble", analysis().ensemble, {}
    yield "Analysis.bagged_pipeline", analysis().bagged_pipeline, {}
    yield "Analysis.stacked_pipeline", analysis().stacked_pipeline, {}


def function_calls(path: Path) -> Iterator[Call]:
    yield "data.train_test_split", data.train_test_split, {"ds": TABLE}
    yield "data.map_batches", data.map_batches, {"data": ROWS, "function": lambda batch: batch}
    for read in (data.read_parquet, data.read_csv, data.read_json):
        yield f"data.{read.__name__}", read, {"paths": str(path / "no such file")}
    for convert in (data.from_pandas, data.from_arrow):
        yield f"data.{convert.__name__}", convert, {}
    yield "evaluate.metric", evaluate.metric, {"function": lambda true, predicted: 1.0, "mode": "min"}
    yield "evaluate.register_metric", evaluate.register_metric, {}
    yield (
        "evaluate.plot_contributions",
        evaluate.plot_contributions,
        {"explanation": result().inference_pipeline.explain(ROWS.head(1))},
    )
    yield (
        "evaluate.plot_dependence",
        evaluate.plot_dependence,
        {"table": result().inference_pipeline.partial_dependence(ROWS, "x", grid=2)},
    )
    yield "register_stage", rl.register_stage, {}
    yield "register_framework", rl.register_framework, {}
    fit = {
        "trainer": trainer(),
        "preprocessor": None,
        "train_dataset": TABLE,
        "target_columns": "late",
        "verbose": False,
    }
    yield "train.fit", train.fit, fit
    yield "train.cross_validate", train.cross_validate, {**fit, "cv": 2}
    yield "train.Scaling", train.Scaling, {}
    yield "train.EarlyStopping", train.EarlyStopping, {"metric": "test-logloss"}
    yield "train.ModelCheckpoint", train.ModelCheckpoint, {"directory": path / "checkpoints"}
    yield "train.Progress", train.Progress, {}
    arguments: dict[str, Mapping[str, Any]] = {
        "XGBoost": {"num_boost_round": 1},
        "LightGBM": {"num_boost_round": 1},
        "CatBoost": {"params": {"iterations": 1}},
        "Sklearn": {"estimator": LogisticRegression()},
    }
    for name, base in arguments.items():
        if installed(name):
            yield f"train.{name}Trainer", _fitted(name.lower()), base
    yield (
        "tune.run",
        tune.run,
        {"trainer": trainer(), "config": {"max_depth": tune.randint(1, 4)}, "num_samples": 1, **SEARCH},
    )
    yield "tune.compare", tune.compare, {"candidates": {"a": trainer()}, **SEARCH}
    yield "tune.Population", tune.Population, {}
    yield "tune.choice", tune.choice, {}
    yield "tune.grid_search", tune.grid_search, {}
    yield "tune.sample_from", tune.sample_from, {}
    pipeline = result().inference_pipeline
    yield "serve.create_app", serve.create_app, {"model": pipeline}
    yield "serve.ServerOptions", serve.ServerOptions, {}
    yield "serve.deploy_config", serve.deploy_config, {"path": str(path / "late.rayline")}
    yield "serve.to_deployment", serve.to_deployment, {"model": pipeline}


def faults(name: str, function: Callable[..., Any], base: Mapping[str, Any]) -> list[str]:
    """Return the calls whose error is not of Rayline, or names neither the argument nor its value."""
    found = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL) or parameter.name.startswith("_"):
            continue
        for wrong in WRONG:
            if parameter.name == "resources_per_trial" and isinstance(wrong, dict):
                continue  # is not wrong, and starts Ray
            text = ""
            try:
                function(**{**base, parameter.name: wrong})
            except rl.RaylineError as error:
                text = str(error)
                if parameter.name in text or "Expected" in text:
                    continue
            except Exception as error:
                text = f"{type(error).__name__}: {error}"
            if text:
                found.append(f"{name}({parameter.name}={wrong!r:.30}): {text.splitlines()[0]:.120}")
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, so that a wrong value that is a path writes there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYLINE_QUIET", "1")
    return tmp_path


def test_stages_splitters_and_domains(folder: Path) -> None:
    assert [fault for call in stage_calls() for fault in faults(*call)] == []


def test_methods(folder: Path) -> None:
    assert [fault for call in method_calls(folder) for fault in faults(*call)] == []


def test_functions(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    assert [fault for call in function_calls(folder) for fault in faults(*call)] == []


def test_every_public_name_is_called(tmp_path: Path) -> None:
    called = {
        call[0].rpartition(".")[2]
        for calls in (stage_calls(), method_calls(tmp_path), function_calls(tmp_path))
        for call in calls
    }
    recorded = json.loads((ROOT / "tests" / "api_surface.json").read_text(encoding="utf-8"))
    names = {name for module in recorded for name in recorded[module] if not name.endswith("Error")}
    optional = {f"{name}Trainer" for name in ("LightGBM", "CatBoost", "Sklearn") if not installed(name)}
    assert names - called - optional - {"Trainer"} == {*NOT_CALLED}


class Options(TypedDict, total=False):
    """Options of the function below."""

    mode: Literal["min", "max"]
    rounds: int | None


@known_arguments
def search(*names: str, shuffle: bool = False, **options: Unpack[Options]) -> None: ...


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "maxx"}, r"mode has a wrong value.\n  Expected one of 'min', 'max'; got 'maxx'.\n  Hint: did you mean 'max'"),
        ({"rounds": "5"}, "Expected an integer or None; got '5'"),
        ({"shuffle": 1}, "Expected True or False; got 1"),
        ({"mod": "min"}, r"unknown argument 'mod'.\n  Expected some of \['mode', 'rounds', 'shuffle'\].\n  Hint: did you mean \['mode'\]"),
    ],
)  # fmt: skip
def test_keywords_of_a_typed_dict_are_checked(arguments: dict[str, Any], message: str) -> None:
    search("a", "b", mode="min", rounds=np.int64(5), shuffle=np.True_)  # type: ignore[arg-type]
    with pytest.raises(rl.ParameterError, match=message):
        search(**arguments)


@pytest.mark.parametrize(
    ("annotation", "accepted", "refused"),
    [
        (bool, [True, np.False_], [1, "yes", None]),
        (int | None, [1, np.uint8(3), None], [True, 1.0, "1"]),
        (float, [1, 0.5, np.float32(0.5)], [float("nan"), True, "1", None]),
        (str | Path, ["a", Path("a")], [b"a", 1]),
        (list[str], [["a"], ("a", "b"), "a"], [[1], {"a"}, None]),
        (Literal["a", "b"] | float, ["a", 0.5], ["c", None]),
        (Mapping[str, Any] | None, [{}, None], [[], "a"]),
        (Callable[..., Any], [len, int], [5, "len"]),
        (pl.DataFrame, [TABLE], [ROWS.to_dict(), None]),
    ],
)  # fmt: skip
def test_annotations_say_what_is_accepted(annotation: Any, accepted: list[Any], refused: list[Any]) -> None:
    check = check_of(annotation)
    assert check is not None
    assert [value for value in accepted if not check.accepts(value)] == []
    assert [value for value in refused if check.accepts(value)] == []


def test_annotations_that_say_nothing_check_nothing() -> None:
    for annotation in (Any, object, train.Preprocessor | None, str | Any):
        assert check_of(annotation) is None


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    text = serve.deploy_config("late.rayline", tmp_path / "serve.yaml", request_timeout_s=np.float64(2.5))
    assert "request_timeout_s: 2.5" in text
    assert type(serve.ServerOptions(request_timeout_s=np.float64(2.5)).request_timeout_s) is float
    assert train.Progress(every=np.int64(5)).every == 5  # type: ignore[arg-type]
