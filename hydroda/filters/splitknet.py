"""Split-KalmanNet (Choi et al. 2023, IEEE TVT 72) and Cholesky-KalmanNet (Ko & Shafieezadeh 2025, IEEE SPL 32).

Two networks side by side: one for what the model does to the state, one for what the gauge does to the observation. In
the first paper their product with H between is the gain; in the second they are the forecast covariance and the inverse
of the innovation covariance, and Joseph's form gives the covariance of the analysis.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from hydroda.filters import learned, networks
from hydroda.filters.algebra import symmetric, transposed
from hydroda.filters.beliefs import Belief, Gaussian
from hydroda.filters.learned import derivative, scaled_derivative, with_covariance, with_mean
from hydroda.filters.nested import Learned
from hydroda.filters.networks import Layer, dense, gru, stacked, unstacked
from hydroda.filters.recipe import Filter, Hour, Predicted, Recipe, System, Update, assemble

STATE, GAUGE = "state", "gauge"
FLOOR = 1e-8  # of the diagonal of a Cholesky factor


def initial(state: Tensor, observation: Tensor, seeds: Iterable[int], *, cholesky: bool = False) -> dict[str, Tensor]:
    """Untrained weights for the scales of states (net, n) and observations (net, q); `cholesky`: for `cholesky_knet`.

    Each network is Linear(→ 80 (n + q)), two recurrent units of 2 (n² + q²), Linear(→ 4 n q), Linear(→ entries). What
    it says begins near the identity, so near a Kalman gain for errors of the size of the scales: with a gain near zero
    a state that is not observed drifts out of the range in which a network learns.
    """
    (nets, n), q = state.shape, observation.shape[-1]
    size = 2 * (n * n + q * q)
    layers = []
    for name, k in ((STATE, n), (GAUGE, q)):
        layers += [
            Layer(f"{name}.first", 2 * k + q + n * q, 80 * (n + q)),
            Layer(f"{name}.lower", 80 * (n + q), size, recurrent=True),
            Layer(f"{name}.upper", size, size, recurrent=True),
            Layer(f"{name}.wide", size, 4 * n * q),
            Layer(f"{name}.last", 4 * n * q, k * (k + 1) // 2 if cholesky else k * k, size=0.1),
        ]
    memory = torch.zeros(nets, 4 * size)
    found = networks.weights(layers, seeds, state=state, observation=observation, memory=memory)
    for name, k in ((STATE, n), (GAUGE, q)):
        one = torch.eye(k, dtype=torch.float64)
        found[f"{name}.last.bias"] += (one[*torch.tril_indices(k, k)] if cholesky else one.flatten()).unsqueeze(-1)
    return found


def split_kalmannet(system: System, *, weights: Mapping[str, Tensor]) -> Filter:
    """K = G₁ Hᵀ G₂, both matrices free; says nothing of its error.

    Features are in the scales stored with the weights (the paper has them as they come), the correction is that of the
    hour before (the released code is an hour late), and the memory begins with zeros (there with random numbers).
    """
    carried = with_mean(system, weights, slope=True)

    def gain(belief: Belief, predicted: Predicted, innovation: Tensor, r: Tensor) -> Tensor:
        x, y = learned.scales(weights, belief)
        n, q, h = x.shape[-1], y.shape[-1], scaled_derivative(weights, belief, predicted)
        one = _read(weights, belief, STATE).reshape(-1, n, n)
        two = _read(weights, belief, GAUGE).reshape(-1, q, q)
        return x.unsqueeze(-1) * (one @ transposed(h) @ two) / y.unsqueeze(-2)

    def correct(belief: Belief, predicted: Predicted, update: Update, r: Tensor, hour: Hour) -> Belief:
        return belief.shifted(update.shift)

    return assemble(system, Recipe(*carried, gain, correct, _attend(weights)))


def cholesky_knet(system: System, *, weights: Mapping[str, Tensor]) -> Filter:
    """K = P⁻ Hᵀ S⁻¹ with P⁻ and S⁻¹ positive definite by construction, P⁺ = (I − K H) P⁻ (I − K H)ᵀ + K R Kᵀ.

    The matrix form of the letter; its code multiplies (I − K H) P⁻ and (I − K H)ᵀ element by element. R is that of the
    system. A rollout without observations has the covariance F P Fᵀ, since the filter knows of no Q.
    """
    carried = with_covariance(system, weights)

    def before(belief: Belief) -> Tensor:
        """P⁻ (c, n, n)."""
        x, _ = learned.scales(weights, belief)
        root = x.unsqueeze(-1) * _factor(_read(weights, belief, STATE), x.shape[-1])
        return root @ transposed(root)

    def gain(belief: Belief, predicted: Predicted, innovation: Tensor, r: Tensor) -> Tensor:
        _, y = learned.scales(weights, belief)
        root = _factor(_read(weights, belief, GAUGE), y.shape[-1]) / y.unsqueeze(-1)
        return before(belief) @ transposed(derivative(predicted)) @ root @ transposed(root)

    def correct(belief: Belief, predicted: Predicted, update: Update, r: Tensor, hour: Hour) -> Learned:
        k, p = update.gain, before(belief)
        rest = torch.eye(p.shape[-1]).to(p) - k @ derivative(predicted)
        cov = symmetric(rest @ p @ transposed(rest) + k @ r @ transposed(k))
        return replace(belief, state=Gaussian(belief.mean + update.shift, cov))

    return assemble(system, Recipe(*carried, gain, correct, _attend(weights)))


def _attend(weights: Mapping[str, Tensor]) -> Callable[..., Learned]:
    """Both networks hear how far what is seen departs from H x, and H; the first of the state, the second of gauges."""
    like = weights["fixed.memory"]

    def attend(belief: Belief, predicted: Predicted, innovation: Tensor, seen: Tensor, hour: Hour) -> Learned:
        told = learned.features(weights, belief, predicted, innovation, seen)
        _, y = learned.scales(weights, belief)
        h = derivative(predicted)
        linear = (h @ transposed(belief.mean))[..., 0]
        bend = torch.where(seen, predicted.mean - linear, 0.0) / y
        common = (bend, scaled_derivative(weights, belief, predicted).flatten(1))
        states = (told.correction, told.change)
        gauges = (told.innovation, told.step)
        memory = stacked(belief.memory.squeeze(1), like).chunk(4, 1)
        after = []
        for i, (name, own) in enumerate(((STATE, states), (GAUGE, gauges))):
            row = dense(weights, f"{name}.first", stacked(torch.cat((*own, *common), -1), like)).relu()
            lower = gru(weights, f"{name}.lower", row, memory[2 * i])
            after += [lower, gru(weights, f"{name}.upper", lower, memory[2 * i + 1])]
        return learned.remembering(belief, torch.cat(after, 1), predicted, innovation, seen)

    return attend


def _read(weights: Mapping[str, Tensor], belief: Learned, name: str) -> Tensor:
    """What a network says (c, entries), from the upper of its recurrent units."""
    h = stacked(belief.memory.squeeze(1), weights["fixed.memory"]).chunk(4, 1)[1 if name == STATE else 3]
    return unstacked(dense(weights, f"{name}.last", dense(weights, f"{name}.wide", h).relu()), belief.mean)


def _factor(entries: Tensor, n: int) -> Tensor:
    """A lower triangle (c, n, n) with a positive diagonal."""
    lower = networks.triangle(entries, n)
    return lower.tril(-1) + torch.diag_embed(lower.diagonal(dim1=-2, dim2=-1).abs() + FLOOR)
