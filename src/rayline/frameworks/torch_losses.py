"""Losses beyond those of `torch.nn.functional`: counts and positive amounts with a log link, quantiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # as everyone calls it

from rayline.core.errors import ParameterError, at
from rayline.core.objective import ANY, NON_NEGATIVE, POSITIVE, LabelRange, quantiles_of


class GammaLoss:
    """Half the gamma deviance up to a constant, of the logarithm of a mean: for positive amounts.

    Examples
    --------
    >>> import torch
    >>> from rayline.frameworks.torch_losses import GammaLoss
    >>> GammaLoss()(torch.tensor([0.0]), torch.tensor([2.0]))
    tensor([2.])
    """

    def __call__(self, output: Any, target: Any) -> Any:
        return output + target * torch.exp(-output)


class TweedieLoss:
    """The negative Tweedie likelihood up to a constant, of the logarithm of a mean: for counts and amounts with many zeros.

    Jørgensen, "The theory of dispersion models" (1997): variance mean ** power.

    Parameters
    ----------
    power
        Between 1 (Poisson) and 2 (gamma), both excluded.

    Raises
    ------
    ParameterError
        When `power` is not between 1 and 2.

    Examples
    --------
    >>> import torch
    >>> from rayline.frameworks.torch_losses import TweedieLoss
    >>> TweedieLoss(1.5)(torch.tensor([0.0]), torch.tensor([1.0]))
    tensor([4.])
    """

    def __init__(self, power: float = 1.5) -> None:
        if not 1 < power < 2:
            raise ParameterError.value("power", "a number between 1 and 2, both excluded", power, where="TweedieLoss")
        self.power = power

    def __call__(self, output: Any, target: Any) -> Any:
        one, two = 1.0 - self.power, 2.0 - self.power
        return torch.exp(two * output) / two - target * torch.exp(one * output) / one


class PinballLoss:
    """The pinball loss of quantiles, the mean over them: output of shape (n, quantiles) or (n,), target of shape (n,).

    Koenker and Bassett, "Regression quantiles" (1978).

    Parameters
    ----------
    quantiles
        Numbers between 0 and 1.

    Raises
    ------
    ParameterError
        When they are not.

    Examples
    --------
    >>> import torch
    >>> from rayline.frameworks.torch_losses import PinballLoss
    >>> PinballLoss([0.5, 0.9])(torch.zeros(1, 2), torch.ones(1))
    tensor([0.7000])
    """

    def __init__(self, quantiles: Sequence[float] | float) -> None:
        with at("PinballLoss"):
            self.quantiles = quantiles_of(quantiles, name="quantiles")

    def __call__(self, output: Any, target: Any) -> Any:
        levels = torch.tensor(self.quantiles, dtype=output.dtype, device=output.device)
        error = target[:, None] - output.reshape(len(target), -1)
        return torch.maximum(levels * error, (levels - 1.0) * error).mean(dim=1)


def poisson_nll(output: Any, target: Any) -> Any:
    """Return the Poisson loss of the logarithm of a mean, for each row."""
    return F.poisson_nll_loss(output, target, reduction="none")


NAMED = {
    "gamma": GammaLoss(),
    "tweedie": TweedieLoss(),
    "poisson": poisson_nll,
    "poisson_nll": poisson_nll,
    "poisson_nll_loss": poisson_nll,
}
"""Losses by name; `quantile_alpha` makes the pinball loss."""


def has_log_link(loss: Any) -> bool:
    """Whether a loss (by name or itself) takes the logarithm of what is predicted."""
    loss = NAMED.get(loss.lower()) if isinstance(loss, str) else loss
    if isinstance(loss, torch.nn.PoissonNLLLoss):
        return bool(loss.log_input)
    return isinstance(loss, (GammaLoss, TweedieLoss)) or loss in (poisson_nll, F.poisson_nll_loss)


def labels(loss: Any) -> LabelRange:
    """Return the labels that a loss can learn."""
    loss = NAMED.get(loss.lower()) if isinstance(loss, str) else loss
    if isinstance(loss, GammaLoss):
        return POSITIVE
    return NON_NEGATIVE if has_log_link(loss) or isinstance(loss, torch.nn.PoissonNLLLoss) else ANY


def quantiles(loss: Any) -> tuple[float, ...]:
    """Return the quantiles of a pinball loss; empty for any other."""
    return loss.quantiles if isinstance(loss, PinballLoss) else ()
