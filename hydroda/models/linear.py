"""Linear reservoirs in series: the model for which every filter's exact answer is known."""

import torch
from torch import Tensor

from hydroda.models.model import Components, Fluxes, Model, Parameter, State


def reservoirs(count: int = 2) -> Model:
    """`count` linear reservoirs with rates κ_i [1/h] in series, explicit steps of one hour.

    x_i(k+1) = x_i(k) + κ_(i−1) x_(i−1)(k) − κ_i x_i(k), rain into the first; the discharge of a state is κ_n x_n, what
    leaves from it in the next hour. With constant rain r every store tends to r / κ_i; without rain a single store
    recedes as (1 − κ)^k.
    """

    def advance(x: Components, u: Components, p: Components) -> tuple[tuple[Tensor, ...], Fluxes]:
        out = [rate * content for rate, content in zip(p, x, strict=True)]
        into = (u[0], *out[:-1])
        new = tuple(content + gain - loss for content, gain, loss in zip(x, into, out, strict=True))
        return new, Fluxes(u[0], torch.zeros_like(u[0]), out[-1])

    return Model(
        "linear.reservoirs",
        tuple(State(f"store_{i + 1}", "mm", f"reservoir {i + 1}") for i in range(count)),
        tuple(Parameter(f"rate_{i + 1}", "h-1", f"κ{i + 1}", 1e-4, 1.0, 0.1, log=True) for i in range(count)),
        ("precipitation",),
        advance,
        lambda x, p: p[-1] * x[-1],
        lambda p: tuple(torch.ones_like(rate) for rate in p),
    )
