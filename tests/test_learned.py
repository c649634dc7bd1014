"""Learned gains: their parts against another implementation, units, memory, and covariances from a gain.

The laws every filter obeys are in `test_filters`; training is in `test_training`.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from test_filters import Twin, close, gauges, run, same, start, with_gaps
from torch import Tensor

from hydroda import catalogue
from hydroda.filters import kalmannet, learned, linear, networks, rkn, splitknet
from hydroda.filters.beliefs import named
from hydroda.filters.kinds import built, kind
from hydroda.filters.networks import Layer, dense, gru, lstm
from hydroda.filters.recipe import System
from hydroda.progress import silent
from hydroda.reproduction import rkn2025
from hydroda.reproduction.constant_speed import drawn, system
from hydroda.teaching.losses import begin, follow, mahalanobis

N, Q = 3, 2  # of `gauges`
MADE = {
    "kalmannet": (kalmannet.initial, kalmannet.kalmannet),
    "kalmannet, scaled": (kalmannet.initial, partial(kalmannet.kalmannet, normalised=False)),
    "kalmannet_single": (kalmannet.initial_single, kalmannet.kalmannet_single),
    "bayesian_kalmannet": (kalmannet.initial, partial(kalmannet.bayesian_kalmannet, draws=5)),
    "split_kalmannet": (splitknet.initial, splitknet.split_kalmannet),
    "cholesky_knet": (partial(splitknet.initial, cholesky=True), splitknet.cholesky_knet),
    "recursive_kalmannet": (rkn.initial, rkn.recursive_kalmannet),
}
each = pytest.mark.parametrize("name", MADE)


def scales(nets: int = 1) -> tuple[Tensor, Tensor]:
    return torch.tensor([[0.5, 0.8, 0.6]]).repeat(nets, 1), torch.tensor([[0.9, 0.4]]).repeat(nets, 1)


def numbers(w: dict[str, Tensor]) -> int:
    return sum(tensor[0].numel() for name, tensor in w.items() if not name.startswith(networks.FIXED))


def test_networks_have_the_published_sizes():
    one = torch.ones(1, 2), torch.ones(1, 1), (1,)
    assert numbers(kalmannet.initial(*one)) == 2223
    assert numbers(splitknet.initial(*one, cholesky=True)) == 20_012
    parts = rkn.initial(*one)
    for name, size in ((rkn.GAIN, 14_542), (rkn.NOISE, 29_103)):
        assert numbers({path: tensor for path, tensor in parts.items() if path.startswith(name)}) == size


def test_layers_are_those_of_torch():
    w = networks.weights([Layer("a", 4, 6), Layer("b", 4, 6, recurrent=True)], (1, 2, 3))
    x, h = torch.randn(3, 4, 5, dtype=torch.float64), torch.randn(3, 6, 5, dtype=torch.float64)
    for net in range(3):
        cell = torch.nn.GRUCell(4, 6, dtype=torch.float64)
        shapes = {"weight_ih": "weight", "bias_ih": "bias", "weight_hh": "hidden_weight", "bias_hh": "hidden_bias"}
        with torch.no_grad():
            for theirs, ours in shapes.items():
                parameter = getattr(cell, theirs)
                parameter.copy_(w[f"b.{ours}"][net].reshape(parameter.shape))
        close(gru(w, "b", x, h)[net].T, cell(x[net].T, h[net].T), 1e-13)
        plain = torch.nn.functional.linear(x[net].T, w["a.weight"][net], w["a.bias"][net, :, 0])
        close(dense(w, "a", x)[net].T, plain, 1e-13)
    bound = w["a.weight"].abs().max()
    assert 0.4 < bound <= 0.5 and not torch.equal(w["a.weight"][0], w["a.weight"][1])


def test_a_long_short_term_memory_is_that_of_torch():
    """Whose gates are in the order input, forget, candidate, output: ours have the last two the other way round."""
    w = networks.weights([Layer("a", 9, 4, recurrent=True, gates=4)], (1, 2))
    x, h, c = (torch.randn(2, size, 5, dtype=torch.float64) for size in (9, 4, 4))
    hidden, cell = lstm(w, "a", x, h, c)
    order = torch.arange(16).reshape(4, 4)[[0, 1, 3, 2]].flatten()
    for net in range(2):
        theirs = torch.nn.LSTMCell(9, 4, dtype=torch.float64)
        shapes = {"weight_ih": "weight", "bias_ih": "bias", "weight_hh": "hidden_weight", "bias_hh": "hidden_bias"}
        with torch.no_grad():
            for name, own in shapes.items():
                parameter = getattr(theirs, name)
                parameter.copy_(w[f"a.{own}"][net, order].reshape(parameter.shape))
        for ours, expected in zip((hidden, cell), theirs(x[net].T, (h[net].T, c[net].T)), strict=True):
            close(ours[net].T, expected, 1e-13)
    for name in ("weight", "bias", "hidden_weight", "hidden_bias"):
        assert 0.4 < w[f"a.{name}"].abs().max() <= 0.5  # of a recurrent unit 1/√outputs


@each
def test_a_stack_of_networks_is_each_of_them(name):
    initial, build = MADE[name]
    of = with_gaps(gauges(bent=0.1))
    w = initial(*scales(2), (3, 4))
    together = run(build(of.system, weights=w), of)
    for net in (0, 1):
        part = of.rows([2 * net, 2 * net + 1])
        alone = run(build(part.system, weights={path: t[net : net + 1] for path, t in w.items()}), part)
        for (a, _), (b, _) in zip(together, alone, strict=True):
            close(a.mean[2 * net : 2 * net + 2], b.mean, 1e-12)


@each
@pytest.mark.parametrize("factor", [1e3, 1e-3])
def test_other_units_are_other_scales(name, factor):
    """States and what is seen of them times a factor each, the stored scales with them: the same, times the factor."""
    initial, build = MADE[name]
    of = with_gaps(gauges(bent=0.1))
    d, e = torch.tensor([factor, 1.0, 1.0 / factor], dtype=torch.float64), torch.tensor([1.0, factor]).double()
    inside = of.system
    other = System(
        lambda x, u: inside.move(x / d, u) * d,
        lambda x: inside.see(x / d) * e,
        lambda mean: inside.model_error(mean / d) * d.unsqueeze(-1),
        lambda y: inside.observation_error(y / e) * e * e.unsqueeze(-1),
    )
    there = Twin(
        lambda *parts: other,
        of.parts,
        of.mean * d,
        of.cov * d * d.unsqueeze(-1),
        of.forcing,
        of.observation * e,
        of.addresses,
    )
    w = initial(*scales(), (5,))
    scaled = w | {"fixed.state": w["fixed.state"] * d, "fixed.observation": w["fixed.observation"] * e}
    ours, theirs = run(build(inside, weights=w), of), run(build(other, weights=scaled), there)
    for (a, _), (b, _) in zip(ours, theirs, strict=True):
        close(b.mean / d, a.mean, 1e-9)
        np.testing.assert_allclose(b.cov / (d * d.unsqueeze(-1)), a.cov, rtol=1e-8, atol=1e-10)


def test_recursive_kalmannet_is_what_the_paper_says():
    """One catchment, one step, written out with matrices."""
    of = gauges(catchments=1)
    w = rkn.initial(*scales(), (5,))
    made = rkn.recursive_kalmannet(of.system, weights=w)
    (first, _), (second, update) = run(made, of, hours=range(2))
    m, h, b, _, _ = (part[0] for part in of.parts)
    x, y = (scale[0].double() for scale in scales())
    one = first.mean[0, 0]
    prior = m @ one + b @ of.forcing[1, 0]
    d = of.observation[1, 0] - h @ prior
    start_of_first = m @ of.mean[0, 0] + b @ of.forcing[0, 0]
    told = (d / y, (of.observation[1, 0] - of.observation[0, 0]) / y, (h * x / y[:, None]).flatten())
    features = torch.cat((*told, (one - start_of_first) / x)).square()
    out = {}
    memory = first.memory[0, 0].split([10 * N * Q, 10 * N * (N + 1) // 2])
    for name, before in zip((rkn.GAIN, rkn.NOISE), memory, strict=True):
        hidden = gru(
            w, f"{name}.memory", dense(w, f"{name}.first", features[None, :, None]).relu(), before[None, :, None]
        )
        out[name] = dense(w, f"{name}.last", dense(w, f"{name}.wide", hidden).relu())[0, :, 0]
    gain = out[rkn.GAIN].reshape(N, Q) * x[:, None] / y
    c = torch.zeros(N, N, dtype=torch.float64)
    c[tuple(torch.tril_indices(N, N))] = out[rkn.NOISE]
    c = c * x[:, None]
    rest = torch.eye(N, dtype=torch.float64) - gain @ h
    close(update.gain[0], gain, 1e-12)
    close(second.mean[0, 0], prior + gain @ d, 1e-12)
    close(second.cov[0], rest @ m @ first.cov[0] @ m.T @ rest.T + c @ c.T, 1e-12)


def test_cholesky_knet_has_the_matrix_form_of_joseph():
    of = gauges(catchments=2)
    made = splitknet.cholesky_knet(of.system, weights=splitknet.initial(*scales(), (5,), cholesky=True))
    belief, update = run(made, of, hours=range(1))[-1]
    h, r = of.parts[1], of.parts[4]
    rest = torch.eye(N, dtype=torch.float64) - update.gain @ h
    before = torch.linalg.solve(rest, belief.cov - update.gain @ r @ update.gain.mT) @ torch.linalg.inv(rest).mT
    close(before, before.mT, 1e-10)
    assert (torch.linalg.eigvalsh(before) > 0).all()
    # K = P⁻ Hᵀ S⁻¹ with a symmetric S⁻¹
    inverse = torch.linalg.pinv(before @ h.mT) @ update.gain
    close(inverse, inverse.mT, 1e-8)


@each
def test_after_an_hour_without_observation_there_was_no_correction(name):
    initial, build = MADE[name]
    of = gauges()
    made = build(of.system, weights=initial(*scales(), (5,)))
    belief = run(made, of, hours=range(3))[-1][0]
    assert belief.mean.ne(belief.prior).any()
    unseen, _ = made.step(belief, of.hour(3, torch.full_like(of.observation[3], torch.nan)))
    assert torch.equal(unseen.memory, belief.memory) and torch.equal(unseen.observation, belief.observation)
    assert (made.forecast(unseen, of.hour(4)).correction == 0).all()


def test_a_network_is_told_of_the_change_of_what_is_seen_alone_and_first_from_what_is_expected():
    of = gauges()
    w = rkn.initial(*scales(), (5,))
    made = rkn.recursive_kalmannet(of.system, weights=w)
    begun = made.init(of.mean, of.cov, of.hour(0).noise)
    close(begun.observation, of.system.see(of.mean)[:, 0], 1e-14)
    predicted = made.observe(made.forecast(begun, of.hour(0)))
    seen = torch.tensor([True, False]).expand_as(of.observation[0])
    innovation = torch.where(seen, of.observation[0] - predicted.mean, 0.0)
    told = learned.features(w, begun, predicted, innovation, seen)
    close(told.step[:, 0], (of.observation[0] - begun.observation)[:, 0] / scales()[1][0, 0], 1e-12)
    assert (told.step[:, 1] == 0.0).all() and (told.innovation[:, 1] == 0.0).all()


@each
def test_learned_beliefs_pass_through_names(name):
    initial, build = MADE[name]
    of = gauges()
    made = build(of.system, weights=initial(*scales(), (5,)))
    belief = run(made, of, hours=range(3))[-1][0]
    again = built(kind(belief), named(belief))
    assert same(belief, again)
    moved = belief.shifted(torch.ones_like(belief.mean))
    close(moved.mean, belief.mean + 1.0, 1e-14)


def test_weights_are_not_made_up():
    """A learned filter is no name for the settings: without trained weights it would run, and be worthless."""
    families = {name.partition(".")[0] for name in catalogue.filters()}
    assert not families & {"kalmannet", "splitknet", "rkn"}
    with pytest.raises(TypeError, match="weights"):
        rkn.recursive_kalmannet(gauges().system)  # type: ignore[call-arg]


def test_a_gain_tells_the_covariance_where_every_state_is_seen():
    """Klein et al. 2022: from the gain of a Kalman filter, its covariances before and after."""
    of = gauges()
    _, _, b, g, _ = of.parts
    r = 0.3 * torch.eye(3, dtype=torch.float64).expand(4, -1, -1) + 0.1
    h = torch.eye(3, dtype=torch.float64).expand(4, -1, -1) + 0.2 * of.parts[0]
    world = System(lambda x, u: x + u @ b.mT, lambda x: x @ h.mT, lambda mean: g, lambda y: r)
    made = linear.kalman(world)
    prior = made.forecast(start(made, of), of.hour(0))
    posterior, update = made.step(start(made, of), of.hour(0, torch.ones(4, 3, dtype=torch.float64)))
    before, after = kalmannet.klein(update.gain, h, r)
    close(before, prior.cov, 1e-9)
    close(after, posterior.cov, 1e-9)
    with pytest.raises(ValueError, match="there are 2"):
        kalmannet.klein(update.gain[..., :2], h[:, :2], r[:, :2, :2])


def test_dropout_draws_by_address_and_gives_a_covariance():
    of = gauges()
    w = kalmannet.initial(*scales(), (5,))
    made = kalmannet.bayesian_kalmannet(of.system, weights=w, draws=30)
    found = run(made, of)
    for belief, _ in found:
        assert (torch.linalg.eigvalsh(belief.cov) > -1e-12).all()
    again = run(made, of)
    assert all(same(a, b) for (a, _), (b, _) in zip(found, again, strict=True))
    twice = of.rows([0, 0])
    one = run(kalmannet.bayesian_kalmannet(twice.system, weights=w), twice)[-1][0]
    for tensor in named(one).values():
        close(tensor[0], tensor[1], 1e-13)
    sure = run(kalmannet.bayesian_kalmannet(of.system, weights=w, draws=3, dropout=0.0), of)[-1][0]
    plain = run(kalmannet.kalmannet(of.system, weights=w), of)[-1][0]
    close(sure.mean, plain.mean, 1e-12)
    close(sure.cov, torch.zeros_like(sure.cov), 1e-12, scale=1.0)


def test_the_distance_of_mahalanobis():
    half = torch.randn(2, 5, 3, 3, dtype=torch.float64)
    p, e = half @ half.mT + 0.1 * torch.eye(3), torch.randn(2, 5, 3, dtype=torch.float64)
    square, determinant = mahalanobis(e, p)
    close(square, (e.unsqueeze(-2) @ torch.linalg.inv(p) @ e.unsqueeze(-1)).squeeze(), 1e-7)
    close(determinant, torch.logdet(p), 1e-7)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("network", (*rkn2025.NETWORKS, rkn2025.SINGLE), ids=lambda network: network.name)
def test_a_long_run_stays_finite(network, tmp_path):
    """10⁵ steps of a body nobody pulls back, after a short training: a gain drawn at random makes no filter."""
    plan = replace(network.plan, iterations=60, window=25, lengths=rkn2025.GROWING)
    weights = rkn2025.train(replace(network, seeds=1, plan=plan), tmp_path, silent, (40,), mixed=False)
    series = drawn(40, 4, 9, steps=100_000, mixed=False).series
    made = network.build(system(series.parameters), weights=weights)
    belief = begin(made, series)
    for hour in range(0, 100_000, 2000):
        part = series.hours(hour, hour + 2000)
        with torch.no_grad():
            found = follow(made, belief, part)
        belief, trace = found.belief, found.cov.diagonal(dim1=-2, dim2=-1).sum(-1)
        assert torch.isfinite(found.mean).all(), hour
        assert (found.mean - part.truth)[..., 0].square().mean().sqrt() < 1.5, hour  # of a gauge with an error of one
        if not trace.isnan().all():
            close(found.cov, found.cov.mT, 1e-12)
            assert (torch.linalg.eigvalsh(found.cov)[..., 0] >= -1e-9 * trace).all()
