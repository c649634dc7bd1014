"""Errors that follow the innovations: a builder in, a builder out."""

from dataclasses import replace

import torch
from torch import Tensor

from hydroda.filters.algebra import divided, product
from hydroda.filters.beliefs import Belief
from hydroda.filters.nested import Adaptive
from hydroda.filters.noise import Noise
from hydroda.filters.recipe import Build, Filter, Hour, Predicted, System, Update, without_missing

FACTOR = (0.04, 25.0)  # least and greatest factor on an error variance: a fifth to five times the error


def desroziers(build: Build, *, memory: float = 720.0, gauge: bool = True, model: bool = True) -> Build:
    """A filter whose errors follow its innovations (Desroziers et al. 2005), with a memory of so many observed hours.

    With d^b = y − h(x^f) and d^a = y − h(x^a) the variance of a gauge is E[d^a d^b], that of what the model expects
    E[(h(x^a) − h(x^f)) d^b]; here as factors on the errors of the system, kept between 0.04 and 25. With one gauge both
    ratios are d² / S: only the common size of the errors is seen, and both factors follow it alike. Raises ValueError
    for a memory below a day.
    """
    if memory < 24.0:
        raise ValueError(f"adaptive.desroziers: memory is {memory} hours, at least 24 are needed")

    def scaled(system: System, belief: Belief) -> System:
        return system.with_errors(belief.model.sqrt().unsqueeze(-1), belief.gauge.sqrt())

    def made(system: System) -> Filter:
        plain = build(system)  # others are built every hour, for its errors: some closures, microseconds

        def init(mean: Tensor, cov: Tensor, noise: Noise) -> Adaptive:
            state = plain.init(mean, cov, noise)
            one = torch.ones_like(plain.observe(state).mean)
            return Adaptive(state, one, one[:, 0])

        def forecast(belief: Belief, hour: Hour) -> Adaptive:
            inner = build(scaled(system, belief))
            return replace(belief, state=inner.forecast(belief.state, hour))

        def observe(belief: Belief) -> Predicted:
            return plain.observe(belief.state)

        def step(belief: Belief, hour: Hour) -> tuple[Belief, Update]:
            inner = build(scaled(system, belief))
            state, update = inner.step(belief.state, hour)
            d = update.innovation
            expected, _ = without_missing(update.predicted, update.observation_cov, update.seen)
            # H K d, for a gain that is C S⁻¹
            moved = product(d.unsqueeze(-2), divided(expected.cov, update.innovation_cov))[:, 0]
            r = torch.diagonal(update.observation_cov, dim1=-2, dim2=-1)
            p = torch.diagonal(expected.cov, dim1=-2, dim2=-1)
            weight = update.seen.to(d) / memory
            of_gauge = torch.where(r > 0, (d - moved) * d / torch.where(r > 0, r, 1.0), 1.0)
            of_model = torch.where(update.seen & (p > 0), moved * d / torch.where(p > 0, p, 1.0), 1.0)
            count = update.seen.sum(-1).clamp(min=1)
            mean = torch.where(update.seen, of_model, 0.0).sum(-1) / count
            some = update.seen.any(-1).to(d)
            new_gauge = belief.gauge * (1.0 + weight * (of_gauge - 1.0)) if gauge else belief.gauge
            new_model = belief.model * (1.0 + some / memory * (mean - 1.0)) if model else belief.model
            return Adaptive(state, new_gauge.clamp(*FACTOR), new_model.clamp(*FACTOR)), update

        return Filter(plain.system, init, forecast, observe, step)

    return made
