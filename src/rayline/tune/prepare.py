"""Check the arguments of a tuning run on the driver, and bring them into one form."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import polars as pl
import polars.selectors as cs

from rayline.core import registry
from rayline.core.arguments import integer
from rayline.core.errors import DataError, ParameterError, SchemaError, at, counted, place
from rayline.core.framework import Rows
from rayline.core.scan import Scan
from rayline.core.schema import col, refuse_empty
from rayline.core.target import Target
from rayline.data.split.base import Splitter
from rayline.data.split.fold_cells import CellSlice, FoldCells
from rayline.data.split.row_hash import RowHash
from rayline.data.split.splitters import chosen_splitter
from rayline.evaluate import metrics
from rayline.evaluate.custom_metrics import Custom
from rayline.evaluate.metric import Metric
from rayline.inference.pipeline import Preprocessor
from rayline.postprocess.chain import Stages
from rayline.preprocessing import fit_planner, schema_check
from rayline.train import fit_inputs as given
from rayline.train.fit_inputs import FitInputs
from rayline.train.fit_request import resolve
from rayline.train.trainer import Trainer
from rayline.tune import dry_run, environment_evaluation, space
from rayline.tune import result_store as journals
from rayline.tune.domains import from_ray
from rayline.tune.evaluate import WHERE, SearchProblem
from rayline.tune.postprocessing import check_stages, with_parameters
from rayline.tune.row_groups import CELL, CellColumn, ConformedRows, GroupEngine, RowGroups, TableGroups

DATA = (
    "train_pipeline", "train_dataset", "test_dataset", "cv", "target_columns", "sample_weight",
    "groups", "stratify", "time", "X", "y", "X_test", "y_test", "group", "event",
)  # fmt: skip
"""The keys of a `data_config`."""

DATA_ARGUMENTS = ("preprocessor", *DATA[1:])
"""The keywords of `run` that say the same."""


@dataclass(frozen=True)
class TuneData:
    """The rows of a tuning run and their folds, which depend on no trainer and no stage.

    Attributes
    ----------
    given
        The training rows as the user gave them.
    inputs
        The data arguments, in one form.
    groups
        The training rows, and those of the test set below them where it is held out, with their cells.
    splits
        The folds of each set of cells.
    n_train
        The number of groups of training rows.
    weighs_test
        Whether the held-out rows have weights.
    """

    given: Any
    inputs: FitInputs
    groups: RowGroups
    splits: tuple[tuple[FoldCells, ...], ...]
    n_train: int
    weighs_test: bool
    by_test_set: bool

    @property
    def engine(self) -> GroupEngine:
        """What scans the rows: in this process, or in Ray's tasks."""
        return engine_of(self.groups)

    def sample(self, n_rows: int) -> pl.DataFrame:
        """A few rows."""
        if isinstance(self.groups, TableGroups):
            frame = next(self.groups.frames())
            return frame.sample(min(n_rows, frame.height), seed=0)
        return _stored().sample(self.groups, n_rows)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class PreparedSearch:
    """A tuning run whose input was checked: what all trials share, the rows, the search space, how often it is drawn from,
    and for each metric whether it is to be small or large."""

    problem: SearchProblem
    material: TuneData
    space: Mapping[str, Any]
    num_samples: int
    modes: tuple[str, ...]

    @property
    def inputs(self) -> FitInputs:
        return self.material.inputs

    @property
    def groups(self) -> RowGroups:
        """The rows and their cells."""
        return self.material.groups

    @property
    def mode(self) -> str:
        """The direction of the score."""
        return self.modes[0]

    def digest(self) -> str:
        """Return the digest of everything that scores depend on, except the configuration."""
        problem = self.problem
        adapter = problem.trainer.adapter
        groups = self.groups.summarised() if isinstance(self.groups, TableGroups) else self.groups
        digests = [summary.digest for summary in groups.summaries]
        return journals.digest(digests, problem.schema, problem.splits, problem.target.columns, problem.weight, adapter)

    def held_out(self, fold: int, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Return the rows that a fold holds out, or some columns of them, in this process."""
        split, _, cells = self.problem.folds[fold]
        wanted = list(self.problem.schema) if columns is None else list(columns)
        engine, function = self.material.engine, _Side(split, cells.test, wanted)
        return engine.collect(engine.map(self.groups, function))

    def training(self, fold: int) -> Any:
        """Return the training rows of a fold: as a table, or as a Dataset where they are in the object store."""
        split, _, cells = self.problem.folds[fold]
        return self._side(_Side(split, cells.train, list(self.problem.schema)))

    def tested(self, fold: int) -> Any:
        """As `training`, of the rows that a fold holds out."""
        split, _, cells = self.problem.folds[fold]
        return self._side(_Side(split, cells.test, list(self.problem.schema)))

    def _side(self, function: _Side) -> Any:
        engine = self.material.engine
        mapped = engine.map(self.groups, function)
        return engine.collect(mapped) if self.groups.is_here else _stored().dataset_of(mapped)


@dataclass(frozen=True)
class _Side:
    """Some columns of the rows of some cells."""

    split: int
    cells: tuple[int, ...]
    columns: Sequence[str]

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        return CellSlice(CellColumn(f"{CELL}{self.split}"), self.cells)(table).select(map(col, self.columns))


def merge_data_config(data_config: Any, **arguments: Any) -> dict[str, Any]:
    """Return the data of a search under the names of `DATA`, from a `data_config` and the keywords of `run`.

    Raises
    ------
    ParameterError
        When `data_config` is no dict or has an unknown key, and when a value is given twice.
    """
    data = {} if data_config is None else data_config
    if not isinstance(data, Mapping):
        raise ParameterError.value("data_config", "a dict with train_dataset, target_columns and cv", type(data))
    unknown = [key for key in data if key not in (*DATA, *DATA_ARGUMENTS)]
    if unknown:
        raise ParameterError.unknown(unknown, DATA, where=f"{place()}: data_config")
    merged: dict[str, Any] = {}
    for key, value in (*data.items(), *arguments.items()):
        name = "train_pipeline" if key == "preprocessor" else key
        if value is not None and name in merged:
            argument = "preprocessor" if name == "train_pipeline" else name
            raise ParameterError.here(
                f"{argument} is given twice.",
                f"Expected it once, as {argument}=… or in data_config.",
                "leave one of them out.",
            )
        if value is not None:
            merged[name] = value
    return merged


@at(WHERE)
def prepare(
    trainer: Trainer,
    data_config: Any,
    config: Mapping[str, Any],
    metric: Any,
    mode: str | Sequence[str] | None,
    num_samples: int | None,
    seed: int | None,
    material: TuneData | None = None,
    pos_label: Any = None,
    postprocess: Any = None,
) -> PreparedSearch:
    """Check everything and bring the rows into this process, unless `material` has them already. Raises as `run`."""
    if not isinstance(trainer, Trainer):
        raise ParameterError.value("trainer", "a trainer such as train.XGBoostTrainer(…)", trainer)
    data_config = merge_data_config(data_config)
    integer("seed", seed, minimum=0, optional=True)
    metric, custom = _own_functions(metric, trainer.custom_metrics)
    trainer = trainer.measured(pos_label=pos_label)
    if custom:
        trainer = copy.copy(trainer)
        trainer.custom_metrics = {**trainer.custom_metrics, **custom}
    trainer.check_gpu()
    data = {key: data_config.get(key) for key in DATA}
    space.refuse_elsewhere([trainer.args, trainer.kwargs])
    config = from_ray(config)
    if trainer.legs and isinstance(config, Mapping) and (own := space.split_space(config).trainer):
        raise ParameterError.here(
            f"the trainer's parameters change during the training, and config searches {sorted(own)[0]!r}.",
            "Expected a config of stages' parameters, or a trainer without a schedule.",
            "take one of them away.",
        )
    prepare_over = _PREPARATIONS[trainer.adapter.fit_driver]
    return prepare_over(trainer, data, config, metric, mode, num_samples, seed, material, postprocess)


def _over_environment(
    trainer: Trainer,
    data: Mapping[str, Any],
    config: Mapping[str, Any],
    metric: Any,
    mode: Any,
    num_samples: int | None,
    seed: int | None,
    _: TuneData | None,
    postprocess: Any,
) -> PreparedSearch:
    """Prepare a search of a framework that generates its own data."""
    if postprocess is not None:
        raise ParameterError.here(
            f"{trainer.framework} generates its own data, and postprocessing stages learn from rows with labels.",
            "Expected postprocess=None.",
            "leave postprocess out.",
        )
    space.check(config, None, trainer.replace)
    problem, direction = environment_evaluation.environment_problem(trainer, data, metric, mode, seed)
    groups = TableGroups([pl.DataFrame(schema=problem.schema)])
    rows = TuneData(None, FitInputs(None, None, problem.roles), groups, (), 0, weighs_test=False, by_test_set=False)
    return PreparedSearch(problem, rows, config, num_samples or space.usual_samples(config), (direction,))


def _over_rows(
    trainer: Trainer,
    data: Mapping[str, Any],
    config: Mapping[str, Any],
    metric: Any,
    mode: Any,
    num_samples: int | None,
    seed: int | None,
    material: TuneData | None,
    postprocess: Any,
) -> PreparedSearch:
    """Prepare a search over rows."""
    pipeline = data["train_pipeline"]
    if pipeline is not None and not isinstance(pipeline, Preprocessor):
        raise ParameterError.value("data_config['train_pipeline']", "a Preprocessor or None", pipeline)
    preprocessor = None if pipeline is None else pipeline.clone()
    after: Stages = (
        () if postprocess is None else tuple(postprocess) if isinstance(postprocess, (list, tuple)) else (postprocess,)
    )
    space.check(config, preprocessor, trainer.replace, (lambda own: with_parameters(after, own)) if after else None)
    if num_samples is None:
        num_samples = space.usual_samples(config)
    if not space.tuned(config) and num_samples > 1:
        raise ParameterError.value("config", "a search space with at least one parameter, or num_samples=1", config)
    rows = read(data) if material is None else material
    inputs = rows.inputs
    beside = () if inputs.weight is None else (inputs.weight,)
    if preprocessor is not None:
        preprocessor.refuse_targets([*inputs.targets, *beside])
        fit_planner.FitPlan(preprocessor.leaves, inputs.schema, inputs.targets, {}, beside).run(None)
    target = _target(trainer, rows, Preprocessor() if preprocessor is None else preprocessor)
    _check_test_labels(rows, target, trainer)
    names, modes = _metrics(metric, mode, target, trainer.custom_metrics)
    stages = check_stages(postprocess, target.plain, inputs.schema)
    _refuse_foreign([name for name in names if not metrics.is_known(name, trainer.custom_metrics)], target, stages)
    problem = SearchProblem(
        trainer, preprocessor, inputs.schema, target.plain, inputs.weight, rows.weighs_test, rows.splits, names[0], seed,
        tuned=tuple(space.tuned_stages(config)), endless=tuple(space.endless_stages(config)), others=names[1:],
        postprocess=stages,
    )  # fmt: skip
    dry_run.check(problem, rows.sample, space.typical(config))
    return PreparedSearch(problem, rows, config, num_samples, modes)


def _refuse_foreign(foreign: Sequence[str], target: Target, stages: Stages) -> None:
    """Raise ParameterError for a framework's own metric where it does not measure the final predictions."""
    if target.stages and foreign:
        raise ParameterError.here(
            f"{foreign[0]!r} is measured by the framework, on what the target stages make of the target.",
            f"Expected a metric that Rayline computes on the labels' own scale, one of {metrics.names()}.",
            "choose one of these.",
        )
    if stages and foreign:
        raise ParameterError.here(
            f"{foreign[0]!r} is measured by the framework, before the postprocessing stages.",
            f"Expected a metric that Rayline computes of the final predictions, one of {metrics.names()}.",
            "choose one of these, or leave postprocess out.",
        )


_PREPARATIONS = {"table": _over_rows, "environment": _over_environment}
"""How a search is prepared, by the driver that the adapter names."""


def read(data: Mapping[str, Any]) -> TuneData:
    """Read and check the rows of a `data_config`, and assign them to folds. Raises as `run`."""
    inputs = given.normalise(
        given.DataArguments(**{field.name: data[field.name] for field in fields(given.DataArguments)})
    )
    groups = _groups(inputs.train, inputs.schema, {})
    with at(f"{WHERE} (training data)"):
        refuse_empty(groups.n_rows)
    n_train, weighs_test = len(groups.summaries), inputs.weight is not None
    by_test_set, group = data["cv"] is None and inputs.test is not None, inputs.roles.paired("group")
    if not by_test_set:
        try:
            labels = inputs.roles.labels
            found = _splitter(data, group).prepare(engine_of(groups), groups, target_columns=labels)
            splits = tuple(folds.folds for folds in found)
            groups = groups.with_cells([folds.cells for folds in found])
        except (DataError, SchemaError) as error:
            raise error.within(WHERE) from error.__cause__
        if group is not None:
            _refuse_divided(groups, group, len(found))
    else:
        weighs_test = inputs.test_weight is not None
        absent = {} if weighs_test or inputs.weight is None else {inputs.weight: inputs.schema[inputs.weight]}
        rest = {name: dtype for name, dtype in inputs.schema.items() if name not in absent}
        test = _groups(inputs.test, rest, absent)
        with at(f"{WHERE} (test data)"):
            refuse_empty(test.n_rows)
        groups = _joined(groups.with_cells([_Constant(0)]), test.with_cells([_Constant(1)]))
        splits = ((FoldCells((0,), (1,)),),)
    rows = data["train_dataset"] if data["train_dataset"] is not None else data["X"]
    return TuneData(rows, inputs, groups, splits, n_train, weighs_test, by_test_set)


@dataclass(frozen=True)
class _Constant:
    """The same cell for every row."""

    cell: int

    def __call__(self, names: Sequence[str]) -> pl.Expr:
        return pl.lit(self.cell)


def engine_of(groups: RowGroups) -> GroupEngine:
    """Return what scans these rows from the driver."""
    engine: GroupEngine = GroupEngine() if groups.is_here else _stored().TaskGroupEngine()
    return engine


def _stored() -> Any:
    from rayline.tune import stored_groups  # it imports Ray

    return stored_groups


def _groups(data: Any, schema: Mapping[str, pl.DataType], absent: Mapping[str, pl.DataType]) -> RowGroups:
    """The rows in the types of the schema, missing values as null: of a table here, of a Dataset in the object store."""
    conform = ConformedRows(schema, absent)
    if type(data).__module__.partition(".")[0] == "ray":
        return _stored().StoredGroups.of_dataset(data, conform, pl.Schema({**schema, **absent}))  # type: ignore[no-any-return]
    frame: pl.DataFrame = registry.engine_for(data).collect(data)
    return TableGroups([conform(frame.lazy()).collect().select(map(col, (*schema, *absent)))])


def _joined(train: RowGroups, test: RowGroups) -> RowGroups:
    """The training rows, and the test rows below them; where one of them is in the object store both are."""
    order = list(train.schema)
    if isinstance(train, TableGroups) and isinstance(test, TableGroups):
        return train.joined(TableGroups([frame.select(map(pl.col, order)) for frame in test.frames()]))
    kind = _stored().StoredGroups
    both: list[Any] = [kind.of_table(rows) if isinstance(rows, TableGroups) else rows for rows in (train, test)]
    return both[0].joined(both[1])  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _GroupCells:
    """The cells of each value of a column, without repetitions."""

    column: str

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        return table.select(RowHash((self.column,)).expression().alias("group"), cs.starts_with(CELL)).unique()


def _refuse_divided(groups: RowGroups, column: str, n_splits: int) -> None:
    """Raise DataError when a split puts rows of one group into different folds."""
    engine = engine_of(groups)
    pairs = engine.collect(engine.map(groups, _GroupCells(column)))
    for split in range(n_splits):
        n_cells = pairs.group_by("group").agg(pl.col(f"{CELL}{split}").n_unique().alias("n"))
        divided = n_cells.filter(pl.col("n") > 1).height
        if divided:
            raise DataError.here(
                f"the folds divide {counted(divided, 'group')} of {column!r}, which are ranked as a whole.",
                "Expected all rows of a group in one fold.",
                f"pass cv as a number, or rayline.data.GroupKFold(5, column={column!r}).",
            )


def _target(trainer: Trainer, rows: TuneData, preprocessor: Preprocessor) -> Target:
    """The target from all labels, after the checks of labels and weights that a fit makes."""
    inputs, groups = rows.inputs, rows.groups.first(rows.n_train)
    named = preprocessor.target_stages
    # Without stages the features are what the framework gets, and can be judged here.
    columns = [*inputs.targets, *inputs.roles.beside] if preprocessor.leaves else list(inputs.schema)
    schema = pl.Schema({name: inputs.schema[name] for name in columns})
    spec, _ = resolve(
        trainer,
        inputs.roles,
        (),
        named,
        lambda ask: fit_planner.fit(
            rows.engine, groups, (), schema, targets=inputs.targets, ask=ask, target_leaves=named
        ),
    )
    return spec.target


def _check_test_labels(rows: TuneData, target: Target, trainer: Trainer) -> None:
    """Raise DataError when labels of the test set are missing, were not there in training, or cannot be learned."""
    if rows.inputs.test is None:
        return
    objective = trainer.adapter.objective(*trainer.args, **trainer.kwargs)
    check = _CheckedLabels(target, {name: rows.inputs.schema[name] for name in rows.inputs.targets}, objective)
    engine: Any = rows.engine
    data: Any = rows.groups
    if not rows.by_test_set:
        data = rows.inputs.test
        engine = registry.engine_for(data)
    try:
        engine.scan(engine.map(data, check), Scan([fit_planner.ROWS]))
    except DataError as error:
        raise error.within(f"{WHERE} (test data)") from error.__cause__


@dataclass(frozen=True)
class _CheckedLabels:
    """Raises DataError on labels that are missing, were not there in training, or cannot be learned."""

    target: Target
    schema: Mapping[str, pl.DataType]
    objective: Any
    made_at: str = field(default_factory=place)

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        labels = schema_check.SchemaCheck(self.schema, self.made_at)(table).select(map(col, self.schema)).collect()
        with at(f"{self.made_at} (test data)"):
            Rows.of(labels, {}, self.target).check_labels(self.objective)
        return labels.lazy()


def _own_functions(metric: Any, custom: Custom) -> tuple[Any, dict[str, Metric]]:
    """The metrics as names, and those of them that are functions of the user's own."""
    several = isinstance(metric, Mapping) or (_is_list(metric) and not isinstance(metric, str))
    own = [m for m in metric if callable(m)] if several and not isinstance(metric, Mapping) else metric
    if not callable(metric) and not isinstance(metric, Mapping) and not (several and own):
        return metric, {}
    names, found = metrics.given(own, custom)
    if several and not isinstance(metric, Mapping):
        rest = iter(names)
        return [next(rest) if callable(m) else m for m in metric], found
    return list(names) if several else names[0], found


def _metrics(metric: Any, mode: Any, target: Target, custom: Custom) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The metrics and their directions, all known."""
    names = [metric] if metric is None or isinstance(metric, str) else list(metric) if _is_list(metric) else []
    modes = [mode] * len(names) if mode is None or isinstance(mode, str) else list(mode) if _is_list(mode) else []
    if not names or len(set(names)) < len(names) or not all(isinstance(n, (str, type(None))) for n in names):
        raise ParameterError.value("metric", "a name or a list of different names", metric)
    if len(modes) != len(names) or not all(m in (None, "min", "max") for m in modes):
        raise ParameterError.value("mode", "'min', 'max' or None, for each metric", mode)
    if isinstance(mode, str) and len(names) > 1:
        raise ParameterError.value("mode", f"a list of {len(names)}, one for each metric, or None", mode)
    found = [_metric(name, direction, target, custom) for name, direction in zip(names, modes, strict=True)]
    return tuple(name for name, _ in found), tuple(direction for _, direction in found)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence)


def _metric(metric: str | None, mode: str | None, target: Target, custom: Custom) -> tuple[str, str]:
    """A metric and its direction, both known."""
    if metric is None:
        metric = metrics.defaults_of(target)[0]
    if metric.startswith("train-"):
        raise ParameterError.here(
            f"{metric!r} is measured on the rows that the model was trained on.",
            "Expected a metric of the rows that are held out.",
            f"use metric={metric.removeprefix('train-')!r}.",
        )
    if metrics.is_known(metric, custom):
        metrics.check([metric], target, custom)
    known = metrics.mode(metric, custom)
    if mode is None and known is None and metric in custom:
        raise ParameterError.here(
            f"whether the function {metric!r} should be small or large is not known.",
            "Expected mode.",
            "pass mode='min' or 'max'.",
        )
    if mode is None and known is None:
        raise ParameterError.unknown([metric], metrics.names(), "metric")
    if mode is not None and known is not None and mode != known:
        raise ParameterError.here(
            f"mode={mode!r} would look for the worst {metric}.",
            f"Expected {known!r}.",
            "leave mode out, or correct it.",
        )
    return metric, str(mode or known)


def _splitter(data: Mapping[str, Any], group: str | None = None) -> Splitter:
    """Return the splitter that `cv` and `groups`, `stratify` or `time` stand for; the groups of a ranking stay whole."""
    cv = data["cv"]
    if cv is None:
        raise ParameterError.here(
            "there are no rows to hold out.",
            "Expected cv=… (a number of folds or a splitter) or test_dataset=….",
            "add cv=5.",
        )
    by = {key: data[key] for key in ("groups", "stratify", "time")}
    return chosen_splitter(cv, ranked=group, **by)
