"""The search space: the tuned parameters and their values, checked against the trainer and the stages."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from rayline.core.errors import ParameterError, RaylineError, first_line
from rayline.inference.pipeline import Preprocessor
from rayline.tune.domains import ChoiceDomain, Domain, NumberDomain, from_ray
from rayline.tune.variants import is_grid

STAGES = "preprocessor"
"""The key of a configuration for the parameters of the stages."""

POSTPROCESS = "postprocess"
"""The key of a configuration for the parameters of the stages after the model."""

Config = Mapping[str, Any]


class ConfigParts(NamedTuple):
    """The parts of a configuration: parameters of the trainer, and of each stage before and after the model."""

    trainer: dict[str, Any]
    stages: dict[str, dict[str, Any]]
    postprocess: dict[str, dict[str, Any]]


def split_space(config: Config) -> ConfigParts:
    """Split a configuration into the parameters of the trainer, and of the stages before and after the model."""
    plain = to_plain(config)
    stages, after = (plain.pop(name, None) or {} for name in (STAGES, POSTPROCESS))
    return ConfigParts(plain, stages, after)


def flatten(config: Config) -> dict[str, Any]:
    """Convert `{"preprocessor": {"impute": {"strategy": "mean"}}}` to `{"preprocessor/impute/strategy": "mean"}`."""
    return {"/".join(path): value for path, value in _leaves(config)}


def tuned(config: Config) -> list[str]:
    """Return the flat names of the searched parameters; the others are constant."""
    return [name for name, value in flatten(config).items() if isinstance(value, Domain) or is_grid(value)]


def tuned_stages(config: Config) -> list[str]:
    """Return the names of the stages with a searched parameter."""
    paths = (path for path, value in _leaves(config) if isinstance(value, Domain) or is_grid(value))
    return list(dict.fromkeys(path[1] for path in paths if path[0] == STAGES and len(path) > 1))


SAMPLES = 10
"""The default number of configurations."""

MANY = 16
"""With more values than this, two trials rarely have the same value of a parameter."""


def endless_stages(config: Config) -> list[str]:
    """Return the names of the stages with a parameter whose values rarely repeat."""
    paths = (path for path, value in _leaves(config) if isinstance(value, Domain) and not _is_short(value))
    return list(dict.fromkeys(path[1] for path in paths if path[0] == STAGES and len(path) > 1))


def _is_short(value: Domain) -> bool:
    if isinstance(value, ChoiceDomain):
        return len(value.categories) <= MANY
    return isinstance(value, NumberDomain) and value.is_integer and value.upper - value.lower <= MANY


def usual_samples(config: Config) -> int:
    """Return the default number of configurations: 1 for a space of grids and constants only."""
    return SAMPLES if any(isinstance(value, Domain) for _, value in _leaves(config)) else 1


def n_trials(config: Config, num_samples: int) -> int:
    """Return the number of trials of a random or grid search in this space."""
    grids = [len(value["grid_search"]) for _, value in _leaves(config) if is_grid(value)]
    return num_samples * int(np.prod(grids, dtype=np.int64)) if grids else num_samples


def to_plain(value: Any) -> Any:
    """Convert the NumPy numbers of a sampled configuration to Python numbers, so that it prints, compares and saves well."""
    if isinstance(value, Mapping):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list):
        return [to_plain(v) for v in value]
    return value


def cell(value: Any) -> Any:
    """Convert a parameter's value for a table: numbers, strings and booleans are unchanged, other values become text."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    try:
        return json.dumps(value)
    except (TypeError, ValueError):
        return repr(value)


def check(
    config: Any,
    preprocessor: Preprocessor | None,
    try_trainer: Callable[[Mapping[str, Any]], Any],
    try_postprocess: Callable[[Mapping[str, Any]], Any] | None = None,
) -> None:
    """Raise on an invalid space: an unknown stage, parameter of a stage, or parameter of the trainer.

    Every value of a choice or a grid is tried on the stage or the trainer that will get it, and one drawn value of every other domain;
    nothing is trained. Raises ParameterError when a name does not exist or a value is not allowed.

    Parameters
    ----------
    config
        The space.
    preprocessor
        The one that is tuned.
    try_trainer
        A function that raises on invalid trainer parameters.
    try_postprocess
        The same for the stages after the model; None if there are none.
    """
    _refuse_form(config, preprocessor, has_postprocess=try_postprocess is not None)
    known = _known(config)
    some = {path: _some(path, value) for path, value in known.items()}
    for path, value in known.items():
        for candidate in _candidates(value, some[path]):
            trial = _nest({**some, path: candidate})
            parts = split_space(trial)
            where = f"tune.run: config[{']['.join(map(repr, path))}] = {candidate!r}"
            try:
                if path[0] == STAGES:
                    assert preprocessor is not None
                    preprocessor.replace(parts.stages)
                elif path[0] == POSTPROCESS and try_postprocess is not None:
                    try_postprocess(parts.postprocess)
                else:
                    try_trainer(parts.trainer)
            except RaylineError as error:
                hint = _hint(path, value, preprocessor)
                raise ParameterError(f"{where} is refused.", str(error).replace("\n ", "\n   "), hint) from error
    if not any(path[0] not in (STAGES, POSTPROCESS) for path in some):
        try_trainer({})


def _refuse_form(config: Any, preprocessor: Preprocessor | None, *, has_postprocess: bool) -> None:
    """Raise ParameterError unless the config is a dict of existing stages."""
    if not isinstance(config, Mapping):
        raise ParameterError.value("config", "a dict of parameters and their search spaces", config, where="tune.run")
    stages = config.get(STAGES, {})
    if stages and not isinstance(stages, Mapping):
        raise ParameterError.value(
            f"config[{STAGES!r}]", 'a dict like {"impute": {"strategy": tune.choice([…])}}', stages, where="tune.run"
        )
    if stages and preprocessor is None:
        raise ParameterError(
            "tune.run: config tunes stages, and there is no preprocessor.",
            f"Expected preprocessor=…; got None and stages {sorted(stages)}.",
            "pass the preprocessor, or take 'preprocessor' out of config.",
        )
    if config.get(POSTPROCESS) and not has_postprocess:
        raise ParameterError(
            "tune.run: config searches postprocessing stages, and there are none.",
            "Expected postprocess=[…], stages of rayline.postprocess.",
            f"pass them, such as postprocess=[Calibrate()], or take {POSTPROCESS!r} out of config.",
        )
    for stage, parameters in stages.items():
        if not isinstance(parameters, Mapping) or is_grid(parameters):
            raise ParameterError.value(
                f"config[{STAGES!r}][{stage!r}]", "a dict of the stage's parameters", parameters, where="tune.run"
            )


def refuse_elsewhere(arguments: Any, name: str = "") -> None:
    """Raise ParameterError when an argument of the trainer contains a domain, which would not be sampled."""
    arguments = from_ray(arguments)
    if isinstance(arguments, Domain) or (name and is_grid(arguments)):
        raise ParameterError(
            f"tune.run: {name!r} of the trainer itself is a search space.",
            f"Expected a value; got {type(arguments).__name__}.",
            f"put it into config: {{{name!r}: …}}.",
        )
    if isinstance(arguments, (list, tuple)):
        for value in arguments:
            refuse_elsewhere(value, name)
    elif isinstance(arguments, Mapping):
        for key, value in arguments.items():
            refuse_elsewhere(value, str(key))
    elif not isinstance(arguments, type) and callable(getattr(arguments, "get_params", None)):  # as estimators have it
        refuse_elsewhere(arguments.get_params(deep=False))


def typical(config: Config) -> dict[str, Any]:
    """Return a fixed configuration of the space, without parameters that are functions of others."""
    return _nest({path: _some(path, value) for path, value in _known(config).items()})


def _known(config: Config) -> dict[tuple[str, ...], Any]:
    """Yield all values of the space except those of functions, which are known only in the trials."""
    return {path: value for path, value in _leaves(config) if not (isinstance(value, Domain) and value.is_function)}


def _hint(path: tuple[str, ...], value: Any, preprocessor: Preprocessor | None) -> str:
    """Return the hint for a refused value."""
    if path[0] != STAGES and preprocessor is not None:
        # "preprocessor/impute/strategy", as the table of results names it, or scikit-learn's "impute__strategy"
        names = path[0].replace("__", "/").removeprefix(f"{STAGES}/").split("/")
        if len(names) > 1 and names[0] in dict(preprocessor.stages):
            inner = f"{{{names[-1]!r}: …}}"
            for name in reversed(names[:-1]):
                inner = f"{{{name!r}: {inner}}}"
            return f"parameters of stages nest: {{{STAGES!r}: {inner}}}."
    if isinstance(value, (list, tuple, range, set)):
        return "a list to choose from is tune.choice([…])."
    if value is not None and not isinstance(value, (str, int, float, bool, Mapping, Domain)):
        return "use a value or a domain of rayline.tune there, such as tune.uniform(0, 1)."
    return "correct the space."


def _leaves(config: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    # A dict of parameters may itself be a parameter (class weights): only the stages nest.
    for key, value in config.items():
        inside = (*path, str(key))
        if isinstance(value, Mapping) and not is_grid(value) and inside[0] in (STAGES, POSTPROCESS):
            yield from _leaves(value, inside)
        else:
            yield inside, value


def _nest(flat: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        at = nested
        for key in path[:-1]:
            at = at.setdefault(key, {})
        at[path[-1]] = value
    return nested


def _candidates(value: Any, typical: Any) -> list[Any]:
    if is_grid(value):
        return list(value["grid_search"])
    if isinstance(value, ChoiceDomain):
        return list(value.categories)
    return [typical]


def _some(path: tuple[str, ...], value: Any) -> Any:
    """Return a fixed value of a domain."""
    if is_grid(value):
        choices = list(value["grid_search"])
        if not choices:
            raise ParameterError.value("grid_search", "at least one value", choices, where="tune.run")
        return choices[0]
    if isinstance(value, ChoiceDomain) and not value.categories:
        raise ParameterError.value("tune.choice", "at least one value", [], where="tune.run")
    if not isinstance(value, Domain):
        return value
    try:
        return to_plain(value.sample(np.random.default_rng(0)))
    except (ValueError, TypeError, OverflowError) as error:
        raise ParameterError(
            f"tune.run: config[{']['.join(map(repr, path))}] has no values: {first_line(error)}.",
            f"Expected a domain that can be drawn from; got {value!r}.",
            "put the lower bound first.",
        ) from error
