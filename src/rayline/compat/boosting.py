"""Private names of XGBoost, LightGBM and CatBoost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rayline.compat.private_name import register

_XGBOOST_LIBRARY = register(
    "xgboost.core:_LIB",
    "xgboost 3.2.0",
    use="Predict through the C interface: Booster.inplace_predict takes twice as long for one row.",
    fallback="Booster.inplace_predict.",
)
_XGBOOST_CHECK = register(
    "xgboost.core:_check_call", "xgboost 3.2.0", use=_XGBOOST_LIBRARY.use, fallback=_XGBOOST_LIBRARY.fallback
)
_XGBOOST_ULONG = register(
    "xgboost.core:c_bst_ulong", "xgboost 3.2.0", use=_XGBOOST_LIBRARY.use, fallback=_XGBOOST_LIBRARY.fallback
)
_LIGHTGBM_ALIASES = register(
    "lightgbm.basic:_ConfigAliases._get_all_param_aliases",
    "lightgbm 4.7.0",
    use="Know every parameter and its aliases.",
    fallback="Parameters are known by their main names only, and unknown names are left to LightGBM.",
)


class XGBoostLibrary(NamedTuple):
    """XGBoost's C interface: the library, the function that raises its errors, its integer type."""

    functions: Any
    check: Any
    ulong: Any


def xgboost_library() -> XGBoostLibrary | None:
    """Return XGBoost's C interface, or None when the installed version keeps it elsewhere."""
    functions, check, ulong = (name.find() for name in (_XGBOOST_LIBRARY, _XGBOOST_CHECK, _XGBOOST_ULONG))
    if not hasattr(functions, "XGBoosterPredictFromDense") or check is None or ulong is None:
        return None
    return XGBoostLibrary(functions, check, ulong)


def lightgbm_aliases(name: str) -> tuple[str, ...]:
    """Return the names under which LightGBM takes a parameter, its main name included."""
    if _LIGHTGBM_ALIASES.find() is None:
        return (name,)
    from lightgbm.basic import _ConfigAliases

    return tuple(_ConfigAliases.get(name))


def lightgbm_parameters() -> Mapping[str, list[str]] | None:
    """Return the aliases of each parameter of LightGBM by its main name, or None when they are not known."""
    read = _LIGHTGBM_ALIASES.find()
    return None if read is None else read()


_CATBOOST_CHECK = register(
    "catboost._catboost:_check_train_params",
    "CatBoost 1.2.10",
    use="Refuse a loss that CatBoost does not know before any data is read.",
    fallback="CatBoost refuses it itself, in training.",
)


def catboost_check(params: Mapping[str, Any]) -> None:
    """Raise CatBoost's own error about parameters of a training, if it can be asked without data."""
    check = _CATBOOST_CHECK.find()
    if check is not None:
        check(dict(params))
