"""The laws that a stage must keep, each a function of a case."""

from __future__ import annotations

import contextlib
import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import polars as pl

from rayline.core.errors import NotFittedError, ParameterError, RaylineError, SchemaError
from rayline.core.operations.base import Operation, apply_all, row_function
from rayline.core.schema import Kind, kind_of
from rayline.core.stage import Stage, parameter_checks
from rayline.inference.pipeline import Preprocessor
from rayline.stages.encode import OneHotEncoder
from rayline.stages.impute import SimpleImputer
from rayline.stages.scale import StandardScaler
from rayline.testing.compare import assert_same_frames, difference, same_bits
from rayline.testing.edge_cases import DRIFTS, LOSSLESS, NAME, StageCase, example_table
from rayline.testing.partial_scans import Arrange, RandomPartsEngine, ThreePartsEngine, fit_with, random_parts


def outcomes(stage: Stage, *, table: pl.DataFrame | None = None, targets: Sequence[str] = ()) -> dict[str, list[str]]:
    """The odd tables that a stage refuses in fit and in transform, and the other types that it refuses in transform."""
    case = StageCase(stage, (example_table() if table is None else table), tuple(targets), 0.0, None)
    fitted = case.fit()

    def refused(call: Callable[[], Any]) -> bool:
        try:
            call()
        except RaylineError:
            return True
        return False

    return {
        "fit": [name for name, odd in case.odd_tables().items() if refused(partial(case.fit, odd))],
        "transform": [name for name, odd in case.odd_tables().items() if refused(partial(fitted.transform, odd))],
        "drift": [name for name, odd in case.drifted(fitted).items() if refused(partial(fitted.transform, odd))],
    }


def _the_declared_is_what_happens(case: StageCase) -> None:
    """Where outcomes are declared, exactly those tables are refused."""
    if case.refuses is None:
        return
    actual = outcomes(case.stage, table=case.table, targets=case.targets)
    for moment, names in actual.items():
        declared = case.refuses.get(moment, ())
        assert set(names) == set(declared), f"{moment} refuses {names}, and declared is {sorted(declared)}"


def _split_does_not_matter(case: StageCase) -> None:
    """Fit on any split into batches, merged in any order, learns the same."""
    whole = _learned(case.fit())
    for seed in range(3):
        parts = fit_with(case, RandomPartsEngine(seed))
        problem = difference(whole, parts, case.rtol)
        assert problem is None, f"split {seed} learned something else: {problem}"


def _column_order_does_not_matter(case: StageCase) -> None:
    """A fit on a table whose columns have another order trains on the same rows and gives the same values; where a stage chooses its
    columns itself, their order may decide about names (`a b`), the columns that stay, and the elements of a vector."""
    turned = case.table.select(reversed(case.table.columns))
    chosen, cases = list(_learned(case.fit()).get("columns", ())), [case]
    with contextlib.suppress(ParameterError):  # of a stage whose columns are in its formula
        if chosen and not _named(case.stage):
            cases.append(replace(case, stage=case.stage.replace(columns=chosen)))
    for one in cases:
        fitted, other = one.fit(), one.fit(turned)
        for method in ("transform", "transform_training"):
            expected, actual = getattr(fitted, method)(case.table), getattr(other, method)(turned)
            both = [name for name, dtype in expected.schema.items() if name in actual.columns and not dtype.is_nested()]
            names = expected.columns if _named(one.stage) else both
            assert_same_frames(actual.select(names), expected.select(names), rel_tol=max(case.rtol, 1e-9), abs_tol=1e-9)


def _merging_is_that_of_a_monoid(case: StageCase) -> None:
    """(a·b)·c = a·(b·c) = c·(b·a) = e·a·b·c·e, with `merge` of two at a time and e the empty statistic."""
    whole = _learned(case.fit())
    arrangements: dict[str, Arrange] = {
        "(ab)c": lambda a, b, c, e, dot: dot(dot(a, b), c),
        "a(bc)": lambda a, b, c, e, dot: dot(a, dot(b, c)),
        "c(ba)": lambda a, b, c, e, dot: dot(c, dot(b, a)),
        "e((ab)c)": lambda a, b, c, e, dot: dot(e, dot(dot(a, b), c)),
        "((ae)(bc))e": lambda a, b, c, e, dot: dot(dot(dot(a, e), dot(b, c)), e),
    }
    for name, arrange in arrangements.items():
        problem = difference(whole, fit_with(case, ThreePartsEngine(arrange)), case.rtol)
        assert problem is None, f"{name} learned something else: {problem}"


def _types_may_differ_between_blocks(case: StageCase) -> None:
    """Blocks of other types are converted to those of the first, or refused; what converts without loss changes nothing."""
    whole = _learned(case.fit())
    for name, change in DRIFTS.items():
        casts = {n: new for n, d in case.table.schema.items() if (new := change(d)) is not None}
        try:
            learned = fit_with(case, ThreePartsEngine(lambda a, b, c, e, dot: dot(dot(a, b), c), drift=casts))
        except RaylineError:
            assert name not in LOSSLESS, f"blocks of other types ({name}) are refused"
            continue
        problem = difference(whole, learned, case.rtol) if name in LOSSLESS else None
        assert problem is None, f"blocks of other types ({name}) learned something else: {problem}"


def _odd_tables_have_an_outcome(case: StageCase) -> None:
    """Fit and transform of every odd table give a result of the declared types, or a RaylineError."""
    fitted = case.fit()
    for name, odd in case.odd_tables().items():
        try:
            result = fitted.transform(odd)
            _check_schema(fitted, result, f"transform of {name!r}")
        except RaylineError:
            pass
        for method in ("transform", "transform_training"):
            try:
                again = case.fit(odd)
                _check_schema(again, getattr(again, method)(odd), f"fit and {method} of {name!r}")
            except RaylineError:
                pass


def _drift_has_an_outcome(case: StageCase) -> None:
    """Other column order and new columns change nothing; other types are converted or refused."""
    fitted = case.fit()
    expected = fitted.transform(case.table)
    reordered = fitted.transform(case.table.select(reversed(case.table.columns)))
    assert_same_frames(reordered.select(expected.columns), expected)
    more = fitted.transform(case.table.with_columns(pl.lit(1).alias("a new column")))
    assert_same_frames(more.select(expected.columns), expected)
    for name in fitted.input_schema:
        try:
            fitted.transform(case.table.drop(name))
        except SchemaError:
            pass
        else:
            raise AssertionError(f"a table without {name!r} was taken")
    for name, drifted in case.drifted(fitted).items():
        try:
            result = fitted.transform(drifted)
        except RaylineError:
            continue
        _check_schema(fitted, result, f"transform after drift to {name!r}")
        if name in LOSSLESS:
            assert_same_frames(result.select(expected.columns), expected)


def _rows_are_independent(case: StageCase) -> None:
    """transform(concat) is concat(transform)."""
    fitted = case.fit()
    for method in ("transform", "transform_training"):
        run = getattr(fitted, method)
        whole = run(case.table)
        for seed in range(3):
            parts = pl.concat([run(part) for part in random_parts(case.table, seed)])
            assert_same_frames(parts, whole, check_exact=True)
        for n in (2, 3):  # as many rows as some stages have columns
            first = case.table.head(2 * n)
            parts = pl.concat([run(part) for part in first.iter_slices(n)])
            assert_same_frames(parts, run(first), check_exact=True)


def _single_rows_have_the_same_bits(case: StageCase) -> None:
    """The row function gives, for every row of every table, exactly what the table's transformation gives."""
    fitted = case.fit()
    run = fitted.row_function()
    if run is None:
        return
    for name, odd in {"the table": case.table, **case.odd_tables()}.items():
        rows = odd.select(list(fitted.input_schema)).rows(named=True)
        try:  # rows are independent (see above), so the whole table says what each gives
            expected: list[dict[str, Any] | None] = [
                *fitted.transform(odd).select(list(fitted.output_schema)).rows(named=True)
            ]
        except RaylineError:
            rows = rows[:6]
            expected = [_outcome(fitted, odd.slice(i, 1)) for i in range(len(rows))]
        for i, (row, wanted) in enumerate(zip(rows, expected, strict=True)):
            try:
                run(row)
            except RaylineError:
                assert wanted is None, f"{name}, row {i}: the row function refuses it, the table does not"
                continue
            assert wanted is not None, f"{name}, row {i}: the table refuses it, the row function does not"
            assert row.keys() == wanted.keys(), f"{name}, row {i}: columns {sorted(row.keys() ^ wanted.keys())}"
            for key, value in wanted.items():
                assert same_bits(value, row[key]), f"{name}, row {i}, column {key!r}: table {value!r}, row {row[key]!r}"


def _outcome(fitted: Preprocessor, one: pl.DataFrame) -> dict[str, Any] | None:
    try:
        result: dict[str, Any] = fitted.transform(one).select(list(fitted.output_schema)).row(0, named=True)
    except RaylineError:
        return None
    return result


def _json_gives_it_back(case: StageCase) -> None:
    """A fitted and (where its columns are named) an unfitted stage survive JSON, and then do the same."""
    fitted = case.fit()
    text = json.dumps(fitted.to_json(), allow_nan=False)
    again = Preprocessor.from_json(json.loads(text))
    assert again == fitted, "the fitted stage came back different"
    assert json.dumps(again.to_json(), allow_nan=False) == text
    assert_same_frames(again.transform(case.table), fitted.transform(case.table), check_exact=True)
    if not isinstance(case.stage.columns, pl.Expr):
        data = json.loads(json.dumps(case.stage.to_json(), allow_nan=False))
        assert type(case.stage).from_json(data).to_json() == case.stage.to_json(), (
            "the unfitted stage came back different"
        )


def _workers_can_have_it(case: StageCase) -> None:
    """The transformation can be sent to another process."""
    fitted = case.fit()
    sent = pickle.loads(pickle.dumps(fitted.table_function()))  # noqa: S301  # just made
    assert_same_frames(sent(case.table.lazy()).collect(), fitted.transform(case.table), check_exact=True)


def _nothing_is_changed(case: StageCase) -> None:
    """Neither the table, nor the stage, nor a row's source is changed."""
    before, parameters = case.table.clone(), repr(case.stage)
    fitted = case.fit()
    fitted.transform(case.table)
    assert_same_frames(case.table, before, check_exact=True)
    assert repr(case.stage) == parameters, "fit changed the stage's parameters"
    assert not case.stage.is_fitted, "fit changed the stage that was passed"
    learned = json.dumps(fitted.to_json())
    fitted.transform(case.table)
    assert json.dumps(fitted.to_json()) == learned, "transform changed what was learned"
    leaf = fitted[NAME]
    assert isinstance(leaf, Stage)
    for lower in (leaf.to_operations, leaf.lower_training, partial(leaf.invert, fitted.input_schema)):
        lower()
        assert json.dumps(fitted.to_json()) == learned, "lowering changed what was learned"


def _wrong_parameters_are_refused(case: StageCase) -> None:
    """Names that do not exist and values of a wrong type raise ParameterError."""
    cls = type(case.stage)
    _refuses(ParameterError, lambda: case.stage.replace(no_such_parameter=1), "an unknown parameter")
    for name, check in parameter_checks(cls).items():
        if not check.accepts(nonsense := object()):
            _refuses(ParameterError, partial(case.stage.replace, **{name: nonsense}), f"{name}={nonsense}")
    assert case.stage.replace().parameters().keys() == case.stage.parameters().keys()


def _unfitted_use_is_refused(case: StageCase) -> None:
    """Transforming with an unfitted stage raises NotFittedError."""
    _refuses(NotFittedError, lambda: case.preprocessor().transform(case.table), "transform before fit")
    _refuses(NotFittedError, case.stage.to_operations, "lower before fit")


def _targets_stay(case: StageCase) -> None:
    """Target columns come out as they went in, and need not be there in prediction."""
    targets = case.targets or tuple(n for n in case.table.columns[-1:] if n not in _named(case.stage))
    if not targets:
        return
    fitted = case.preprocessor().fit(case.table, target_columns=targets)
    result = fitted.transform(case.table)
    assert_same_frames(result.select(targets), case.table.select(targets), check_exact=True)
    without = fitted.transform(case.table.drop(targets))
    assert_same_frames(without, result.drop(targets), check_exact=True)
    if case.stage.resamples:
        assert_same_frames(result, case.table, check_exact=True)  # only training rows are changed
    else:
        training = fitted.transform_training(case.table)
        assert_same_frames(training.select(targets), case.table.select(targets), check_exact=True)


BEFORE = [("imputer", SimpleImputer()), ("onehot", OneHotEncoder())]
BEHIND = [("scaler", StandardScaler())]
"""Stages that work on columns of a law's stage, or on what it makes."""


def _targets_are_let_go(case: StageCase) -> None:
    """A fitted stage that drops an unnamed column equals a fit with that column as a target, or says
    that it cannot; between other stages too."""
    free = [name for name in case.table.columns if name not in _named(case.stage) and name not in case.targets]
    kinds = {kind_of(case.table.schema[name]): name for name in free}
    chain = [*BEFORE, (NAME, case.stage), *BEHIND]
    for kind in (Kind.NUMERIC, Kind.CATEGORY):
        target = (*case.targets, kinds.get(kind, ""))
        try:
            fitted = Preprocessor(chain).fit(case.table, target_columns=case.targets)
            expected = Preprocessor(chain).fit(case.table, target_columns=target)
            reduced = fitted.without_targets(target)
        except RaylineError:
            continue
        problem = difference(_of(expected), _of(reduced), case.rtol, "preprocessor")
        assert problem is None, f"without {target[-1]!r}: {problem}"
        reduced.transform(case.table.drop(target))


def _of(fitted: Preprocessor) -> Any:
    return {k: v for k, v in json.loads(json.dumps(fitted.to_json())).items() if k != "scans"}


def _promises_are_kept(case: StageCase) -> None:
    """`column_operation` names the one operation of each column; `keep_input` leaves source columns alone."""
    fitted = case.fit()
    stage = fitted[NAME]
    assert isinstance(stage, Stage)
    if stage.column_operation is not None:
        kinds = {type(operation) for operation in stage.to_operations()}
        assert kinds <= {stage.column_operation}, f"it becomes {kinds}, not {stage.column_operation}"
        columns = [operation.column for operation in stage.to_operations()]  # type: ignore[attr-defined]
        assert len(columns) == len(set(columns)), "a column has more than one operation"
    if stage.keep_input:
        result = fitted.transform(case.table)
        assert_same_frames(result.select(case.table.columns), case.table, check_exact=True)


def _no_column_is_overwritten(case: StageCase) -> None:
    """A column of another's, under a name that the stage gives to a new one, is refused or stays as it is."""
    fitted = case.fit()
    leaf = fitted[NAME]
    assert isinstance(leaf, Stage)
    new = [name for name in fitted.output_schema if name not in fitted.input_schema]
    if not new or leaf.learned is None or "columns" not in leaf.learned:
        return
    names = list(leaf.learned["columns"])
    other = pl.lit("another's").alias(new[0])
    try:
        stage = case.stage.replace(columns=names)
        result = Preprocessor([(NAME, stage)]).fit_transform(
            case.table.with_columns(other), target_columns=case.targets
        )
    except RaylineError:
        return
    kept = new[0] in result.columns and set(result[new[0]].unique()) == {"another's"}
    assert kept, f"a column {new[0]!r} that was there has been overwritten"


def _the_way_back_leads_back(case: StageCase) -> None:
    """An inverse restores every value, except those that the stage declares as lost: going forth
    again gives the same."""
    fitted = case.fit()
    leaf = fitted[NAME]
    assert isinstance(leaf, Stage)
    back = None if leaf.resamples else leaf.invert(fitted.input_schema)
    if back is None:
        return
    result: Any = fitted.transform(case.table)
    before: Any = fitted.inverse_transform(result)
    if leaf.lossy_reason:
        again = apply_all(fitted.operations, before.lazy()).collect()
        assert_same_frames(again.select(result.columns).cast(dict(result.schema)), result, rel_tol=1e-6, abs_tol=1e-6)
    else:
        kept = case.table.select(before.columns).cast(dict(before.schema))
        assert_same_frames(before, kept, rel_tol=1e-6, abs_tol=1e-6)
    _same_in_rows(back, fitted.output_schema, result, before)


def _same_in_rows(back: list[Operation], schema: pl.Schema, result: pl.DataFrame, before: pl.DataFrame) -> None:
    run = row_function(back, schema)
    if run is None:
        return
    names = [name for name in before.columns if name in apply_all(back, pl.LazyFrame(schema=schema)).collect_schema()]
    for i, (row, wanted) in enumerate(
        zip(result.select(list(schema)).rows(named=True), before.select(names).rows(named=True), strict=True)
    ):
        run(row)
        for key, value in wanted.items():
            assert same_bits(value, row[key]), f"inverse, row {i}, column {key!r}: table {value!r}, row {row[key]!r}"


def _lineage_is_true(case: StageCase) -> None:
    """A column that is not in the lineage of an output never changes that output."""
    fitted = case.fit()
    lineage = fitted.lineage
    assert list(lineage) == list(fitted.output_schema), f"{list(lineage)} for {list(fitted.output_schema)}"
    strange = {source for sources in lineage.values() for source in sources} - set(fitted.input_schema)
    assert not strange, f"sources that do not exist: {strange}"
    expected = fitted.transform(case.table)
    for name in fitted.input_schema:
        try:
            changed = fitted.transform(case.table.with_columns(pl.col(name).reverse()))
        except RaylineError:
            continue
        rest = [output for output, sources in lineage.items() if name not in sources]
        assert_same_frames(changed.select(rest), expected.select(rest), check_exact=True)


LAWS: list[Callable[[StageCase], None]] = [
    _the_declared_is_what_happens,
    _split_does_not_matter,
    _column_order_does_not_matter,
    _merging_is_that_of_a_monoid,
    _types_may_differ_between_blocks,
    _odd_tables_have_an_outcome,
    _drift_has_an_outcome,
    _rows_are_independent,
    _single_rows_have_the_same_bits,
    _json_gives_it_back,
    _workers_can_have_it,
    _nothing_is_changed,
    _wrong_parameters_are_refused,
    _unfitted_use_is_refused,
    _targets_stay,
    _targets_are_let_go,
    _promises_are_kept,
    _no_column_is_overwritten,
    _the_way_back_leads_back,
    _lineage_is_true,
]


def _learned(fitted: Preprocessor) -> Any:
    stage = fitted[NAME]
    assert isinstance(stage, Stage)
    return stage.learned


def _check_schema(fitted: Preprocessor, result: pl.DataFrame, what: str) -> None:
    for name, dtype in fitted.output_schema.items():
        assert name in result.columns, f"{what}: column {name!r} of the declared output is missing"
        got = result.schema[name]
        assert got == dtype, f"{what}: column {name!r} is {got}, declared {dtype}"


def _named(stage: Stage) -> set[str]:
    columns = stage.columns
    return (
        {columns}
        if isinstance(columns, str)
        else set()
        if columns is None or isinstance(columns, pl.Expr)
        else set(columns)
    )


def _refuses(error: type[RaylineError], call: Callable[[], Any], what: str) -> None:
    try:
        call()
    except error:
        return
    raise AssertionError(f"{what} was not refused with {error.__name__}")
