"""Recursive KalmanNet (Mortada et al. 2025, EUSIPCO): a learned gain with a covariance that follows from it.

One network reads the gain, another a root of the noise that an hour adds; Joseph's form carries the covariance between.
Only the derivatives F and H of the system are used, neither Q nor R.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from hydroda.filters import learned, networks
from hydroda.filters.algebra import symmetric, transposed
from hydroda.filters.beliefs import Belief, Gaussian
from hydroda.filters.learned import derivative, scaled_derivative, with_covariance
from hydroda.filters.nested import Learned
from hydroda.filters.networks import Layer, dense, gru, stacked, unstacked
from hydroda.filters.recipe import Filter, Hour, Predicted, Recipe, System, Update, assemble

GAIN, NOISE = "gain", "noise"


def initial(state: Tensor, observation: Tensor, seeds: Iterable[int]) -> dict[str, Tensor]:
    """Untrained weights for the scales of states (net, n) and observations (net, q), a network for each seed.

    Linear(f → 10 f), GRU(→ 10 o), Linear(→ 200 o), Linear(→ o) for f features and o outputs, linear layers a tenth of
    the usual size, so that the gain begins near zero.
    """
    (_, n), q = state.shape, observation.shape[-1]
    told = 2 * q + q * n + n
    layers = []
    for name, out in ((GAIN, n * q), (NOISE, n * (n + 1) // 2)):
        layers += [
            Layer(f"{name}.first", told, 10 * told, size=0.1),
            Layer(f"{name}.memory", 10 * told, 10 * out, recurrent=True),
            Layer(f"{name}.wide", 10 * out, 200 * out, size=0.1),
            Layer(f"{name}.last", 200 * out, out, size=0.1),
        ]
    memory = torch.zeros(state.shape[0], 10 * (n * q + n * (n + 1) // 2))
    return networks.weights(layers, seeds, state=state, observation=observation, memory=memory)


def recursive_kalmannet(system: System, *, weights: Mapping[str, Tensor]) -> Filter:
    """P = (I − K H) F P⁻ Fᵀ (I − K H)ᵀ + C Cᵀ with K and the triangle C from networks (eqs 8–12).

    Features are the squares of innovation, change of the observation, H and last correction, each in the scale stored
    with the weights. A rollout without observations has the covariance F P Fᵀ, since the filter knows of no Q.
    """
    like, carried = weights["fixed.memory"], with_covariance(system, weights)
    sizes = [weights[f"{name}.memory.hidden_weight"].shape[-1] for name in (GAIN, NOISE)]

    def parts(belief: Belief) -> tuple[Tensor, ...]:
        return stacked(belief.memory.squeeze(1), like).split(sizes, 1)

    def attend(belief: Belief, predicted: Predicted, innovation: Tensor, seen: Tensor, hour: Hour) -> Belief:
        told = learned.features(weights, belief, predicted, innovation, seen)
        h = scaled_derivative(weights, belief, predicted).flatten(1)
        x = torch.cat((told.innovation, told.step, h, told.correction), -1).square()
        row, after = stacked(x, like), []
        for name, memory in zip((GAIN, NOISE), parts(belief), strict=True):
            after.append(gru(weights, f"{name}.memory", dense(weights, f"{name}.first", row).relu(), memory))
        return learned.remembering(belief, torch.cat(after, 1), predicted, innovation, seen)

    def read(belief: Belief, name: str) -> Tensor:
        h = parts(belief)[(GAIN, NOISE).index(name)]
        wide = dense(weights, f"{name}.wide", h).relu()
        return unstacked(dense(weights, f"{name}.last", wide), belief.mean)

    def gain(belief: Belief, predicted: Predicted, innovation: Tensor, r: Tensor) -> Tensor:
        x, y = learned.scales(weights, belief)
        return read(belief, GAIN).reshape(predicted.cross.shape) * x.unsqueeze(-1) / y.unsqueeze(-2)

    def correct(belief: Belief, predicted: Predicted, update: Update, r: Tensor, hour: Hour) -> Learned:
        x, _ = learned.scales(weights, belief)
        c = networks.triangle(read(belief, NOISE), x.shape[-1]) * x.unsqueeze(-1)
        rest = torch.eye(x.shape[-1]).to(x) - update.gain @ derivative(predicted)
        cov = symmetric(rest @ belief.cov @ transposed(rest) + c @ transposed(c))
        return replace(belief, state=Gaussian(belief.mean + update.shift, cov))

    return assemble(system, Recipe(*carried, gain, correct, attend))
