"""Models and filters through time: the loops over hours. Tensors only; (catchment, point, component) as everywhere."""

from collections.abc import Iterator

from torch import Tensor

from hydroda.models.model import Model


def trajectory(model: Model, x: Tensor, forcing: Tensor, p: Tensor) -> Iterator[Tensor]:
    """The states (catchment, point, n) after each hour of `forcing` (T, catchment, m), without assimilation.

    `p` is (catchment or 1, 1 or point, parameter): a population of parameter sets may stand on the point axis.
    """
    for u in forcing:
        x = model.step(x, u.unsqueeze(1), p)
        yield x
