"""What the gauges can know of a state: the local observability matrix of a system along a forcing.

A component that no observation of the coming hours depends on cannot be estimated by any filter; one on which they
depend a thousand times less than on another can be in theory only.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hydroda.filters.algebra import jacobian
from hydroda.filters.recipe import System


class Observability(NamedTuple):
    """How well a state is determined by what is observed of it, per catchment.

    `rank` (c,), the number of directions seen at all; `condition` (c,), the greatest singular value over the least,
    infinite where one is zero; `singular` values (c, n), falling; `least` (c, n), the direction that is seen least, of
    length one in the scaled components, its largest component positive.
    """

    rank: Tensor
    condition: Tensor
    singular: Tensor
    least: Tensor


def matrix(system: System, x: Tensor, forcing: Tensor) -> Tensor:
    """O (c, hours · q, n): the slope of what is seen at x (c, 1, n) and after it, under forcing (hours, c, m).

    Rows ∂h(x(k+j)) / ∂x(k), j = 0 … hours − 1, first every gauge at x itself. For a linear system they are
    H, H F, H F² …, eq. 34 of Pauwels et al. (2013) when hours = n. Units of the observation over those of the state
    (mm/h per mm for a store). The forcing of the last hour acts after the last row. Model errors play no part. Raises
    ValueError when there is no hour.
    """
    if not len(forcing):
        raise ValueError("observability.matrix needs an hour of forcing or more, there is none")
    c, _, n = x.shape
    slope, rows = torch.eye(n).to(x).expand(c, n, n), []
    for i, u in enumerate(forcing.unsqueeze(2)):
        rows.append(jacobian(system.see, x, system.see(x).shape[-1]) @ slope)
        if i + 1 < len(forcing):
            slope = jacobian(lambda points, u=u: system.move(points, u), x, n) @ slope  # type: ignore[misc]
            x = system.move(x, u)
    return torch.cat(rows, 1)


def observability(matrix: Tensor, scale: Tensor | None = None, tolerance: float | None = None) -> Observability:
    """Rank, condition and least observable direction of O (c, rows, n), by its singular values.

    `scale` (n,) or (c, n) is a typical standard deviation of each component in its own unit; with it a singular value
    is the change of what is observed per standard deviation, and `least` counts in standard deviations: times `scale`
    it is a change of the state. Without it the units of the components decide. A direction counts as seen when its
    singular value is above `tolerance` times the greatest, by default what rounding leaves, max(rows, n) · ε, the rule
    of `numpy.linalg.matrix_rank`. Raises ValueError for a scale that is not positive and naming the catchments whose
    matrix is not finite.
    """
    rows, n = matrix.shape[1:]
    if scale is not None:
        if not (scale > 0.0).all():
            raise ValueError(f"observability: scale is {scale.tolist()}, every component must be positive")
        matrix = matrix * scale.unsqueeze(-2)
    bad = ~torch.isfinite(matrix).flatten(1).all(1)
    if bad.any():
        which = ", ".join(str(i) for i in bad.nonzero()[:, 0].tolist())
        raise ValueError(f"observability: the matrix of catchment {which} is not finite")
    # all n directions: with fewer rows than components some have no singular value, theirs is zero
    _, values, directions = torch.linalg.svd(matrix, full_matrices=True)
    values = torch.nn.functional.pad(values, (0, n - values.shape[-1]))
    share = max(rows, n) * torch.finfo(matrix.dtype).eps if tolerance is None else tolerance
    rank = (values > share * values[:, :1]).sum(-1)
    least = directions[:, -1]
    largest = least.gather(1, least.abs().argmax(1, keepdim=True))
    return Observability(rank, values[:, 0] / values[:, -1], values, least * largest.sign())
