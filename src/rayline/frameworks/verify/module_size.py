"""Build modules that an untrusted file describes, but no larger than the tensors saved with the description.

A configuration may name a billion layers, or a layer of a billion units: building it exhausts the memory. The tensors in the
file are known before (`frameworks.verify.tensors`), so building stops as soon as the module exceeds them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.nn.modules import module as registration

from rayline.core.errors import ArtifactError
from rayline.frameworks.verify import tensors

SLACK_NUMBERS = 1 << 26
"""Allowance for tables of positions and masks, which are not saved."""
SLACK_MODULES = 1 << 12


@contextlib.contextmanager
def no_larger_than(shapes: Mapping[str, tensors.Shape], what: str) -> Iterator[None]:
    """Raise ArtifactError when the modules that this thread builds have many more parameters, buffers or modules than the saved
    tensors can fill. Tied parameters are counted each time, because they are created before they are tied."""
    thread_id = threading.get_ident()
    limits = {"numbers": 4 * tensors.n_numbers(shapes) + SLACK_NUMBERS, "modules": 64 * len(shapes) + SLACK_MODULES}
    totals = dict.fromkeys(limits, 0)

    def count(kind: str, n: Callable[[Any], int]) -> Callable[[Any, str, Any], None]:
        def hook(_: Any, name: str, value: Any) -> None:
            if value is None or threading.get_ident() != thread_id:
                return
            totals[kind] += n(value)
            if totals[kind] > limits[kind]:
                raise ArtifactError(
                    f"{what} describes layers that are larger than the saved tensors.",
                    f"Expected about {tensors.n_numbers(shapes):,} numbers in {len(shapes):,} tensors; got more at {name[:80]!r}.",
                    "save it again.",
                )

        return hook

    numbers, modules = count("numbers", lambda value: int(value.numel())), count("modules", lambda _: 1)
    handles = [
        registration.register_module_parameter_registration_hook(numbers),
        registration.register_module_buffer_registration_hook(numbers),
        registration.register_module_module_registration_hook(modules),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def built_within_limits(make: Callable[[], Any], shapes: Mapping[str, tensors.Shape], what: str, *, exact: bool) -> Any:
    """Return the module that `make` builds, after a trial build without memory.

    Parameters
    ----------
    make
        Builds the module.
    shapes
        The shapes of its saved tensors.
    what
        The name of the file that describes it.
    exact
        Whether it must have exactly these tensors. A custom class may share some, or fail to build without memory.

    Raises
    ------
    ArtifactError
        When it is larger than the saved tensors or, with `exact`, differs from them.
    """
    try:
        with torch.device("meta"), no_larger_than(shapes, what):
            bare = {name: tuple(value.shape) for name, value in make().state_dict().items()}
    except ArtifactError:
        raise
    except Exception:
        if exact:
            raise
        bare = dict(shapes)
    if exact and bare != dict(shapes):
        raise ArtifactError(f"{what} describes other layers than the saved tensors.", "", "save it again.")
    with no_larger_than(shapes, what):
        return make()
