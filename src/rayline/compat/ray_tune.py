"""Private names of Ray Tune, Ray Train and RLlib."""

from __future__ import annotations

from typing import Any

from rayline.compat.private_name import register
from rayline.compat.ray import RAY

_TRAIN_CALLBACKS = register(
    "ray.train.v2.api.data_parallel_trainer:DataParallelTrainer._create_default_callbacks",
    RAY,
    use="Keep Ray Train from starting an actor that outlives a training that was ended, which on a Ray without dashboard never ends.",
    fallback="That actor stays until the Ray ends; it holds no resources.",
)
_TRAIN_CLEANER = register(
    "ray.train.v2._internal.callbacks.placement_group_callback:PlacementGroupCleanerCallback",
    RAY,
    use="Recognise the callback that starts that actor.",
    fallback="That actor stays until the Ray ends; it holds no resources.",
)
_TUNE_REGISTRY = register(
    "ray.tune.registry:_global_registry.contains",
    RAY,
    use="Look up an environment that the user registered under a name.",
    fallback="Only names of Gymnasium are known: pass the function that makes the environment instead of its name.",
)
_VARIANTS = register(
    "ray.tune.search.basic_variant:BasicVariantGenerator",
    RAY,
    "_random_state",
    "_points_to_evaluate",
    "_constant_grid_search",
    use="Draw the variants of a `BasicVariantGenerator` in this process, as Ray Tune would.",
    fallback="What another version calls otherwise is empty: points that it was made with are not tried.",
)
_OWN_SPACE = register(
    "ray.tune.search.optuna:OptunaSearch",
    RAY,
    "_space",
    use="Refuse a searcher with a search space of its own, which would take the place of config.",
    fallback="The searcher decides which of the two it uses.",
)
_OWN_OBJECTIVE = register(
    "ray.tune.schedulers.async_hyperband:AsyncHyperBandScheduler",
    RAY,
    "_metric",
    "_mode",
    use="Refuse a scheduler that compares trials by a metric of its own.",
    fallback="Ray Tune refuses the second metric itself, when the trials start.",
)
_CONNECTORS = register(
    "ray.rllib.algorithms.algorithm_config:AlgorithmConfig",
    RAY,
    "_env_to_module_connector",
    "_module_to_env_connector",
    use="Refuse settings that put custom code between the observations and the policy.",
    fallback="Such a policy is trained, and predicts without that code.",
)


def basic_variants(search: Any) -> tuple[list[Any], bool, Any]:
    """Return what a `BasicVariantGenerator` of Ray Tune was made with: its points, whether draws are constant over grids, and its
    random generator."""
    attributes = vars(search)
    random = attributes.get("_random_state")
    return (
        list(attributes.get("_points_to_evaluate") or ()),
        bool(attributes.get("_constant_grid_search")),
        getattr(random, "_rng", random),
    )


def without_placement_group_cleaner(trainer: Any) -> Any:
    """Keep a Ray Train trainer from starting its detached cleaner; return the trainer. The caller removes the placement groups."""
    create, cleaner = getattr(trainer, "_create_default_callbacks", None), _TRAIN_CLEANER.find()
    if create is not None and cleaner is not None:
        trainer._create_default_callbacks = lambda: [c for c in create() if not isinstance(c, cleaner)]
    return trainer


def registered_environment(name: str) -> Any:
    """Return the function registered with `ray.tune.register_env` under this name, or None."""
    if _TUNE_REGISTRY.find() is None:
        return None
    from ray.tune.registry import ENV_CREATOR, _global_registry

    return _global_registry.get(ENV_CREATOR, name) if _global_registry.contains(ENV_CREATOR, name) else None


def own_space(searcher: Any) -> Any:
    """Return the search space that a searcher was made with; None without one."""
    return getattr(searcher, "_space", None) or None


def own_objective(scheduler: Any) -> dict[str, str | None]:
    """Return the metric and the mode that a scheduler was made with."""
    return {"metric": getattr(scheduler, "_metric", None), "mode": getattr(scheduler, "_mode", None)}


def has_connectors(settings: Any) -> bool:
    """Return whether settings of RLlib put custom code between the observations and the policy."""
    return any(getattr(settings, name, None) is not None for name in _CONNECTORS.attributes)
