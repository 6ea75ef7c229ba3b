"""The drivers of a search, by the id that an adapter names (`Framework.fit_driver`)."""

from __future__ import annotations

from rayline.core.errors import at
from rayline.train.drivers import named_driver
from rayline.train.fit import read_once
from rayline.train.trainer import Trainer
from rayline.tune.environment_search import EnvironmentSearch
from rayline.tune.options import SearchRequest
from rayline.tune.search_driver import PreparedSearch, SearchDriver
from rayline.tune.search_problem import WHERE
from rayline.tune.table_search import TableSearch

SEARCH_DRIVERS: dict[str, SearchDriver] = {"table": TableSearch(), "environment": EnvironmentSearch()}


def search_driver(trainer: Trainer) -> SearchDriver:
    """Return the driver of the searches of a trainer. Raises ParameterError when there is none of the name that its adapter has."""
    return named_driver(SEARCH_DRIVERS, trainer)


@at(WHERE)
def prepare(request: SearchRequest) -> PreparedSearch:
    """Check all arguments and read the rows, unless the request already has them. Raises as `run`."""
    request = request.resolved()
    driver = search_driver(request.trainer)
    with read_once(request.data):
        return driver.prepare(request)
