"""The contract of a stage, executable: `check_stage` runs every law that a stage must keep on tables of all kinds."""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
import json
import math
import pickle
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import polars as pl
from polars.testing import assert_frame_equal

from rayline.core.errors import NotFittedError, ParameterError, RaylineError, SchemaError
from rayline.core.operations import Operation, apply_all, row_function
from rayline.core.scan import Scan
from rayline.core.stage import Check, Stage
from rayline.core.statistics import Answers, merge_answers
from rayline.data import conform, fitting
from rayline.data.preprocessor import Preprocessor
from rayline.engine.local import LocalEngine

NAME = "stage"


def check_stage(
    stage: Stage,
    *,
    table: pl.DataFrame | None = None,
    targets: Sequence[str] = (),
    rtol: float = 1e-12,
    refuses: Mapping[str, Collection[str]] | None = None,
) -> None:
    """Run the whole contract of a stage; raise AssertionError with the law that it breaks.

    The laws: any split of the rows and any order of merging gives the same parameters, and merging is associative and
    commutative with the empty statistic as its identity; every odd table (no rows, one row, only missing values, a
    constant, infinite values, NaN, new categories, other column order, other types, other types in some blocks) gives the
    outcome that is declared, a result of the declared types or a RaylineError; a row's result depends on that row alone; single rows give the bits of the table; JSON
    gives an equal stage back; nothing that was passed in is changed; wrong parameters and unfitted use are refused;
    targets stay as they are; the way back, where there is one, leads back; a column that is not in the lineage of an output
    never changes it.

    Parameters
    ----------
    stage
        An unfitted stage.
    table
        Rows that it can be fitted on; when omitted, a table with a column of every kind.
    targets
        Target columns of `table`.
    rtol
        How far learned floats may differ between splits, relative to their size.
    refuses
        The outcomes that are declared: for "fit", "transform" and "drift" the names of the odd tables (see `outcomes`) that
        are refused; all others give a result. When omitted, each may be either.

    Examples
    --------
    >>> from rayline.stages import StandardScaler
    >>> from rayline.testing import check_stage
    >>> hard = ["no rows", "all missing", "infinite", "minus infinite", "huge"]
    >>> check_stage(StandardScaler(), refuses={"fit": hard, "drift": ["strings"]})
    """
    case = _Case(stage, (example_table() if table is None else table), tuple(targets), rtol, refuses)
    for law in LAWS:
        try:
            law(case)
        except AssertionError as error:
            raise AssertionError(f"{stage!r} breaks {law.__name__.removeprefix('_')!r}: {error}") from error
        except Exception as error:
            raise AssertionError(
                f"{stage!r} fails in {law.__name__.removeprefix('_')!r} with {type(error).__name__}: {error}"
            ) from error


def outcomes(
    stage: Stage, *, table: pl.DataFrame | None = None, targets: Sequence[str] = ()
) -> dict[str, list[str]]:
    """The odd tables that a stage refuses in fit and in transform, and the other types that it refuses in transform."""
    case = _Case(stage, (example_table() if table is None else table), tuple(targets), 0.0, None)
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


def example_table(n: int = 60, seed: int = 0) -> pl.DataFrame:
    """A table with columns of every kind, missing values among them, and a target `y`."""
    rng = random.Random(seed)  # noqa: S311  # no secret
    words = ["late", "early", "gate", "the", "plane", "storm", "Crew", "delay", "runway", "café"]

    def maybe(value: Any, share: float = 0.1) -> Any:
        return None if rng.random() < share else value

    return pl.DataFrame(
        {
            "amount": [maybe(rng.gauss(50.0, 10.0)) for _ in range(n)],
            "price": [rng.lognormvariate(1.0, 1.0) for _ in range(n)],
            "count": [maybe(rng.randrange(1, 9)) for _ in range(n)],
            "small": pl.Series([rng.randrange(100) for _ in range(n)], dtype=pl.Int8),
            "flag": [maybe(rng.random() < 0.4) for _ in range(n)],
            "city": [maybe(rng.choice(["Oslo", "Rome", "Lima", "a b", ""])) for _ in range(n)],
            "value": [rng.choice(["x", "y"]) for _ in range(n)],
            "note": [maybe(" ".join(rng.choice(words) for _ in range(rng.randrange(4, 9)))) for _ in range(n)],
            "day": [maybe(dt.date(2013, 1, 1) + dt.timedelta(days=rng.randrange(800))) for _ in range(n)],
            "time": [maybe(dt.datetime(2013, 1, 1) + dt.timedelta(minutes=rng.randrange(999_999))) for _ in range(n)],
            "tags": [maybe([rng.choice("abc") for _ in range(rng.randrange(4))]) for _ in range(n)],
            "y": [rng.randrange(2) for _ in range(n)],
        }
    )


@dataclasses.dataclass(frozen=True)
class _Case:
    stage: Stage
    table: pl.DataFrame
    targets: tuple[str, ...]
    rtol: float
    refuses: Mapping[str, Collection[str]] | None

    def preprocessor(self) -> Preprocessor:
        return Preprocessor([(NAME, self.stage)])

    def fit(self, table: pl.DataFrame | None = None) -> Preprocessor:
        return self.preprocessor().fit(self.table if table is None else table, target_columns=self.targets)

    def drifted(self, fitted: Preprocessor) -> dict[str, pl.DataFrame]:
        """The table with its input columns in other types."""
        made = {}
        for name, change in _DRIFTS.items():
            casts = {n: new for n, d in fitted.input_schema.items() if (new := change(d)) is not None}
            made[name] = self.table.cast(casts)  # type: ignore[arg-type]
        return made

    def odd_tables(self) -> dict[str, pl.DataFrame]:
        """Tables with the same columns and types, and hard values."""
        features = [name for name in self.table.columns if name not in self.targets]
        floats = [name for name in features if self.table.schema[name].is_float()]
        strings = [name for name in features if self.table.schema[name] == pl.String]

        def with_first(names: Sequence[str], value: Any) -> pl.DataFrame:
            first = pl.int_range(pl.len()) == 0
            return self.table.with_columns(
                pl.when(first).then(pl.lit(value)).otherwise(pl.col(n)).alias(n) for n in names
            )

        first = self.table.drop_nulls().head(1) if self.table.drop_nulls().height else self.table.head(1)
        return {
            "no rows": self.table.head(0),
            "one row": self.table.head(1),
            "all missing": self.table.with_columns(pl.lit(None, dtype=self.table.schema[n]).alias(n) for n in features),
            "constant": pl.concat([first] * 5),
            "infinite": with_first(floats, math.inf),
            "minus infinite": with_first(floats, -math.inf),
            "NaN": with_first(floats, math.nan),
            "huge": with_first(floats, 1e300),
            "minus zero": with_first(floats, -0.0),
            "new categories": with_first(strings, "never seen \x00 é"),
        }


_LOSSLESS = ("floats", "categories")
_DRIFTS: dict[str, Callable[[pl.DataType], pl.DataType | None]] = {
    "narrower": lambda d: pl.Float32() if d == pl.Float64 else pl.Int32() if d == pl.Int64 else None,
    "floats": lambda d: pl.Float64() if d.is_integer() else None,
    "categories": lambda d: pl.Categorical() if d == pl.String else None,
    "strings": lambda d: pl.String() if d.is_numeric() or d == pl.Date else None,
    "datetimes": lambda d: pl.Datetime("ms") if d in (pl.Date, pl.Datetime) else None,
}


def _the_declared_is_what_happens(case: _Case) -> None:
    """Where outcomes are declared, exactly those tables are refused."""
    if case.refuses is None:
        return
    found = outcomes(case.stage, table=case.table, targets=case.targets)
    for moment, names in found.items():
        declared = case.refuses.get(moment, ())
        assert set(names) == set(declared), f"{moment} refuses {names}, and declared is {sorted(declared)}"


def _split_does_not_matter(case: _Case) -> None:
    """Fit on any split into batches, merged in any order, learns the same."""
    whole = _learned(case.fit())
    for seed in range(3):
        parts = _fit_in_parts(case, seed)
        problem = _difference(whole, parts, case.rtol)
        assert problem is None, f"split {seed} learned something else: {problem}"


def _merging_is_that_of_a_monoid(case: _Case) -> None:
    """(a·b)·c = a·(b·c) = c·(b·a) = e·a·b·c·e, with `merge` of two at a time and e the empty statistic."""
    whole = _learned(case.fit())
    arrangements: dict[str, _Arrange] = {
        "(ab)c": lambda a, b, c, e, dot: dot(dot(a, b), c),
        "a(bc)": lambda a, b, c, e, dot: dot(a, dot(b, c)),
        "c(ba)": lambda a, b, c, e, dot: dot(c, dot(b, a)),
        "e((ab)c)": lambda a, b, c, e, dot: dot(e, dot(dot(a, b), c)),
        "((ae)(bc))e": lambda a, b, c, e, dot: dot(dot(dot(a, e), dot(b, c)), e),
    }
    for name, arrange in arrangements.items():
        problem = _difference(whole, _fit_with(case, _Arranged(arrange)), case.rtol)
        assert problem is None, f"{name} learned something else: {problem}"


def _types_may_differ_between_blocks(case: _Case) -> None:
    """Blocks of other types are converted to those of the first, or refused; what converts without loss changes nothing."""
    whole = _learned(case.fit())
    for name, change in _DRIFTS.items():
        casts = {n: new for n, d in case.table.schema.items() if (new := change(d)) is not None}
        try:
            learned = _fit_with(case, _Arranged(lambda a, b, c, e, dot: dot(dot(a, b), c), drift=casts))
        except RaylineError:
            assert name not in _LOSSLESS, f"blocks of other types ({name}) are refused"
            continue
        problem = _difference(whole, learned, case.rtol) if name in _LOSSLESS else None
        assert problem is None, f"blocks of other types ({name}) learned something else: {problem}"


def _odd_tables_have_an_outcome(case: _Case) -> None:
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


def _drift_has_an_outcome(case: _Case) -> None:
    """Other column order and new columns change nothing; other types are converted or refused."""
    fitted = case.fit()
    expected = fitted.transform(case.table)
    reordered = fitted.transform(case.table.select(reversed(case.table.columns)))
    assert_frame_equal(reordered.select(expected.columns), expected)
    more = fitted.transform(case.table.with_columns(pl.lit(1).alias("a new column")))
    assert_frame_equal(more.select(expected.columns), expected)
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
        if name in _LOSSLESS:
            assert_frame_equal(result.select(expected.columns), expected)


def _rows_are_independent(case: _Case) -> None:
    """transform(concat) is concat(transform)."""
    fitted = case.fit()
    for method in ("transform", "transform_training"):
        run = getattr(fitted, method)
        whole = run(case.table)
        for seed in range(3):
            parts = pl.concat([run(part) for part in _cut(case.table, seed)])
            assert_frame_equal(parts, whole, check_exact=True)


def _single_rows_have_the_same_bits(case: _Case) -> None:
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
                assert _same_bits(value, row[key]), (
                    f"{name}, row {i}, column {key!r}: table {value!r}, row {row[key]!r}"
                )


def _outcome(fitted: Preprocessor, one: pl.DataFrame) -> dict[str, Any] | None:
    try:
        result: dict[str, Any] = fitted.transform(one).select(list(fitted.output_schema)).row(0, named=True)
    except RaylineError:
        return None
    return result


def _json_gives_it_back(case: _Case) -> None:
    """A fitted and (where its columns are named) an unfitted stage survive JSON, and then do the same."""
    fitted = case.fit()
    text = json.dumps(fitted.to_json(), allow_nan=False)
    again = Preprocessor.from_json(json.loads(text))
    assert again == fitted, "the fitted stage came back different"
    assert json.dumps(again.to_json(), allow_nan=False) == text
    assert_frame_equal(again.transform(case.table), fitted.transform(case.table), check_exact=True)
    if not isinstance(case.stage.columns, pl.Expr):
        data = json.loads(json.dumps(case.stage.to_json(), allow_nan=False))
        assert type(case.stage).from_json(data).to_json() == case.stage.to_json(), (
            "the unfitted stage came back different"
        )


def _workers_can_have_it(case: _Case) -> None:
    """The transformation can be sent to another process."""
    fitted = case.fit()
    sent = pickle.loads(pickle.dumps(fitted.table_function()))  # noqa: S301  # just made
    assert_frame_equal(sent(case.table.lazy()).collect(), fitted.transform(case.table), check_exact=True)


def _nothing_is_changed(case: _Case) -> None:
    """Neither the table, nor the stage, nor a row's source is changed."""
    before, parameters = case.table.clone(), repr(case.stage)
    fitted = case.fit()
    fitted.transform(case.table)
    assert_frame_equal(case.table, before, check_exact=True)
    assert repr(case.stage) == parameters, "fit changed the stage's parameters"
    assert not case.stage.is_fitted, "fit changed the stage that was passed"
    learned = json.dumps(fitted.to_json())
    fitted.transform(case.table)
    assert json.dumps(fitted.to_json()) == learned, "transform changed what was learned"
    leaf = fitted[NAME]
    assert isinstance(leaf, Stage)
    for lower in (leaf.lower, leaf.lower_training, partial(leaf.invert, schema=fitted.input_schema)):
        lower(NAME)
        assert json.dumps(fitted.to_json()) == learned, "lowering changed what was learned"


def _wrong_parameters_are_refused(case: _Case) -> None:
    """Names that do not exist and values of a wrong type raise ParameterError."""
    cls = type(case.stage)
    _refuses(ParameterError, lambda: case.stage.replace(no_such_parameter=1), "an unknown parameter")
    for field in dataclasses.fields(cls):
        check = field.metadata.get("check")
        if isinstance(check, Check) and not check.test(nonsense := object()):
            _refuses(ParameterError, partial(case.stage.replace, **{field.name: nonsense}), f"{field.name}={nonsense}")
    assert case.stage.replace().parameters().keys() == case.stage.parameters().keys()


def _unfitted_use_is_refused(case: _Case) -> None:
    """Transforming with an unfitted stage raises NotFittedError."""
    _refuses(NotFittedError, lambda: case.preprocessor().transform(case.table), "transform before fit")
    _refuses(NotFittedError, lambda: case.stage.lower(NAME), "lower before fit")


def _targets_stay(case: _Case) -> None:
    """Target columns come out as they went in, and need not be there in prediction."""
    targets = case.targets or tuple(n for n in case.table.columns[-1:] if n not in _named(case.stage))
    if not targets:
        return
    fitted = case.preprocessor().fit(case.table, target_columns=targets)
    result = fitted.transform(case.table)
    assert_frame_equal(result.select(targets), case.table.select(targets), check_exact=True)
    without = fitted.transform(case.table.drop(targets))
    assert_frame_equal(without, result.drop(targets), check_exact=True)
    if case.stage.changes_rows:
        assert_frame_equal(result, case.table, check_exact=True)  # only training rows are changed
    else:
        training = fitted.transform_training(case.table)
        assert_frame_equal(training.select(targets), case.table.select(targets), check_exact=True)


def _promises_are_kept(case: _Case) -> None:
    """`becomes` names the one operation of each column; `keeps` leaves source columns alone."""
    fitted = case.fit()
    stage = fitted[NAME]
    assert isinstance(stage, Stage)
    if stage.becomes is not None:
        kinds = {type(operation) for operation in stage.lower(NAME)}
        assert kinds <= {stage.becomes}, f"it becomes {kinds}, not {stage.becomes}"
        columns = [operation.column for operation in stage.lower(NAME)]  # type: ignore[attr-defined]
        assert len(columns) == len(set(columns)), "a column has more than one operation"
    if stage.keeps:
        result = fitted.transform(case.table)
        assert_frame_equal(result.select(case.table.columns), case.table, check_exact=True)


def _the_way_back_leads_back(case: _Case) -> None:
    """Where there is a way back, it brings back every value; where the stage says what is lost, all but that: going forth
    again gives the same."""
    fitted = case.fit()
    leaf = fitted[NAME]
    assert isinstance(leaf, Stage)
    back = None if leaf.changes_rows else leaf.invert(NAME, fitted.input_schema)
    if back is None:
        return
    result = fitted.transform(case.table)
    before = fitted.inverse_transform(result)
    if leaf.loses:
        again = apply_all(fitted.operations, before.lazy()).collect()
        assert_frame_equal(again.select(result.columns).cast(dict(result.schema)), result, rel_tol=1e-6, abs_tol=1e-6)
    else:
        kept = case.table.select(before.columns).cast(dict(before.schema))
        assert_frame_equal(before, kept, rel_tol=1e-6, abs_tol=1e-6)
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
            assert _same_bits(value, row[key]), f"way back, row {i}, column {key!r}: table {value!r}, row {row[key]!r}"


def _lineage_is_true(case: _Case) -> None:
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
        assert_frame_equal(changed.select(rest), expected.select(rest), check_exact=True)


LAWS: list[Callable[[_Case], None]] = [
    _the_declared_is_what_happens,
    _split_does_not_matter,
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
    _promises_are_kept,
    _the_way_back_leads_back,
    _lineage_is_true,
]


class _InParts(LocalEngine):
    """Scans a table in random parts and merges them in a random order."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def scan(self, data: Any, scan: Scan) -> dict[int, Answers]:
        rng = random.Random(self.seed)  # noqa: S311  # no secret
        parts = [scan.of(part.lazy(), part.height)[0] for part in _cut(data, self.seed)]
        rng.shuffle(parts)
        while len(parts) > 1:
            i = rng.randrange(len(parts) - 1)
            parts[i : i + 2] = [merge_answers(parts[i : i + 2])]
        return {0: parts[0]}


_Arrange = Callable[[Answers, Answers, Answers, Answers, Callable[[Answers, Answers], Answers]], Answers]


class _Arranged(LocalEngine):
    """Scans a table in three parts and merges them two at a time, as it is told; the second part may have other types."""

    def __init__(self, arrange: _Arrange, drift: Mapping[str, pl.DataType] | None = None) -> None:
        self.arrange, self.drift = arrange, drift or {}

    def scan(self, data: Any, scan: Scan) -> dict[int, Answers]:
        third = data.height // 3
        tables = [data.slice(0, third), data.slice(third, third).cast(dict(self.drift)), data.slice(2 * third)]
        first, second, third_part = (scan.of(part.lazy(), part.height)[0] for part in tables)
        empty: Answers = {r: r.statistic.empty(**dict(r.options)) for r in first}
        return {0: self.arrange(first, second, third_part, empty, lambda x, y: {r: x[r].merge(y[r]) for r in x})}


def _fit_in_parts(case: _Case, seed: int) -> Any:
    return _fit_with(case, _InParts(seed))


def _fit_with(case: _Case, engine: LocalEngine) -> Any:
    schema = conform.readable(case.table.schema)
    fit = fitting.fit(engine, case.table, [(NAME, case.stage)], schema, targets=case.targets)
    return fit.leaves[0].learned


def _cut(table: pl.DataFrame, seed: int) -> list[pl.DataFrame]:
    """The table in parts of random sizes, an empty one among them."""
    rng = random.Random(seed)  # noqa: S311  # no secret
    cuts = sorted(rng.randrange(table.height + 1) for _ in range(1 + 2 * seed))
    edges = [0, 0, *cuts, table.height]
    return [table.slice(a, b - a) for a, b in itertools.pairwise(edges)]


def _learned(fitted: Preprocessor) -> Any:
    stage = fitted[NAME]
    assert isinstance(stage, Stage)
    return stage.learned


def _difference(a: Any, b: Any, rtol: float, path: str = "learned") -> str | None:
    """Where two learned values differ by more than rounding; None when they do not."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if list(a) != list(b):
            return f"{path}: {list(a)} and {list(b)}"
        return next((d for k in a if (d := _difference(a[k], b[k], rtol, f"{path}.{k}"))), None)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        if len(a) != len(b):
            return f"{path}: {len(a)} and {len(b)} entries"
        return next(
            (d for i, (x, y) in enumerate(zip(a, b, strict=True)) if (d := _difference(x, y, rtol, f"{path}[{i}]"))),
            None,
        )
    if isinstance(a, float) and isinstance(b, float):
        same = a == b or math.isclose(a, b, rel_tol=rtol, abs_tol=rtol * 1e-3) or (a != a and b != b)
    else:
        same = type(a) is type(b) and a == b
    return None if same else f"{path}: {a!r} and {b!r}"


def _same_bits(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return a == b and math.copysign(1.0, a) == math.copysign(1.0, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same_bits(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_same_bits(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and bool(a == b)


def _check_schema(fitted: Preprocessor, result: pl.DataFrame, where: str) -> None:
    for name, dtype in fitted.output_schema.items():
        assert name in result.columns, f"{where}: column {name!r} of the declared output is missing"
        got = result.schema[name]
        assert got == dtype, f"{where}: column {name!r} is {got}, declared {dtype}"


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
