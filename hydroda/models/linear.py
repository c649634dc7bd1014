"""Linear reservoirs in series: the model for which every filter's exact answer is known."""

import torch
from torch import Tensor

from hydroda.models.model import Fluxes, Model, Parameter, State


def reservoirs(count: int = 2) -> Model:
    """`count` linear reservoirs with rates κ_i [1/h] in series, explicit steps of one hour.

    x_i(k+1) = x_i(k) + κ_(i−1) x_(i−1)(k) − κ_i x_i(k), rain into the first; the discharge of a state is κ_n x_n, what
    leaves from it in the next hour. With constant rain r every store tends to r / κ_i; without rain a single store
    recedes as (1 − κ)^k.
    """

    def advance(x: Tensor, u: Tensor, p: Tensor) -> tuple[Tensor, Fluxes]:
        out = p * x
        rain = (u[..., :1]).expand(*x.shape[:-1], 1)
        into = torch.cat((rain, out[..., :-1]), -1)
        return x + into - out, Fluxes(rain[..., 0], torch.zeros_like(rain[..., 0]), out[..., -1])

    return Model(
        "linear.reservoirs",
        tuple(State(f"store_{i + 1}", "mm", f"reservoir {i + 1}") for i in range(count)),
        tuple(Parameter(f"rate_{i + 1}", "h-1", f"κ{i + 1}", 1e-4, 1.0, 0.1, log=True) for i in range(count)),
        ("precipitation",),
        advance,
        lambda x, p: (p * x)[..., -1:],
        lambda p: torch.ones_like(p),
    )
