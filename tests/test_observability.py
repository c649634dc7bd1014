"""The observability matrix: that of a textbook for linear systems, finite differences for others, and what it finds."""

import numpy as np
import pytest
import torch
from test_filters import close, gauges, river

from hydroda.filters.recipe import System
from hydroda.models.hbv import pauwels2013
from hydroda.trials.observability import matrix, observability


def pauwels(catchments: int = 3, **values: float) -> tuple[System, torch.Tensor]:
    """The three-store HBV with the parameters of the paper but for `values`; states that differ by catchment."""
    model = pauwels2013(24)
    p = model.defaults.expand(catchments, -1, -1).clone()
    for name, value in values.items():
        p[..., [q.name for q in model.parameters].index(name)] = value
    system = System(
        lambda x, u: model.step(x, u, p),
        lambda x: model.discharge(x, p),
        lambda mean: torch.zeros(mean.shape[0], 3, 1),
        lambda y: torch.ones(y.shape[0], 1, 1),
    )
    share = torch.linspace(0.8, 1.2, catchments, dtype=torch.float64)[:, None, None]
    return system, share * torch.tensor([150.0, 12.0, 5.0], dtype=torch.float64)


def weather(rain: float, hours: int = 3, catchments: int = 3) -> torch.Tensor:
    shares = torch.linspace(0.5, 1.5, hours * catchments, dtype=torch.float64).reshape(hours, catchments, 1)
    return shares * torch.tensor([rain, 0.05], dtype=torch.float64)


def by_differences(system: System, x: torch.Tensor, forcing: torch.Tensor, step: float = 1e-4) -> torch.Tensor:
    def seen(x: torch.Tensor) -> torch.Tensor:
        rows = []
        for u in forcing:
            rows.append(system.see(x)[:, 0])
            x = system.move(x, u.unsqueeze(1))
        return torch.cat(rows, -1)

    columns = []
    for i in range(x.shape[-1]):
        d = torch.zeros_like(x)
        d[..., i] = step
        columns.append((seen(x + d) - seen(x - d)) / (2 * step))
    return torch.stack(columns, -1)


def test_of_a_linear_system_it_is_the_matrix_of_the_textbook():
    of = gauges()
    f, h = of.parts[0].numpy(), of.parts[1].numpy()
    found = matrix(of.system, of.mean, of.forcing[:4])
    assert found.shape == (4, 8, 3)
    for i in range(4):
        expected = np.concatenate([h[i] @ np.linalg.matrix_power(f[i], j) for j in range(4)])
        close(found[i], expected, 1e-13)
        values = np.linalg.svd(expected)[1]
        result = observability(found)
        close(result.singular[i], values, 1e-12)
        close(result.condition[i], values[0] / values[-1], 1e-10)
        assert result.rank[i] == np.linalg.matrix_rank(expected) == 3


@pytest.mark.parametrize("world", ["gauges", "river", "pauwels"])
def test_of_any_system_it_is_the_finite_differences(world):
    if world == "pauwels":
        (system, x), forcing = pauwels(), weather(1.0)
    else:
        of = gauges(bent=0.5) if world == "gauges" else river()
        system, x, forcing = of.system, of.mean, of.forcing[:5]
    found, expected = matrix(system, x, forcing), by_differences(system, x, forcing)
    for i in range(x.shape[-1]):  # columns differ by orders of magnitude
        close(found[..., i], expected[..., i], 1e-5)
    later = matrix(system, x, forcing * torch.linspace(1, 3, len(forcing), dtype=x.dtype)[:, None, None])
    if world != "gauges":
        assert (later - found).abs().max() > 1e-6  # it is of this trajectory
    close(later[:, : system.see(x).shape[-1]], found[:, : system.see(x).shape[-1]], 1e-15)  # none has fallen yet


def test_a_catchment_alone_is_the_same_among_others():
    of = river()
    whole = matrix(of.system, of.mean, of.forcing)
    result = observability(whole, of.mean[:, 0] + 1.0)
    for i in range(4):
        one = of.rows([i])
        alone = matrix(one.system, one.mean, one.forcing)
        close(alone[0], whole[i], 1e-13)
        close(observability(alone, one.mean[:, 0] + 1.0).singular[0], result.singular[i], 1e-12)


def test_a_state_no_gauge_sees_is_found():
    """In the coordinates z = x T the third component is driven by the others and drives nothing."""
    c, n = 4, 3
    random = np.random.default_rng(1)
    f = torch.from_numpy(random.uniform(0.2, 0.9, (c, n, n)))
    h = torch.from_numpy(random.uniform(0.2, 0.9, (c, 1, n)))
    f[:, :2, 2], h[:, :, 2] = 0.0, 0.0
    turn = torch.linalg.qr(torch.from_numpy(random.standard_normal((c, n, n))))[0]
    f, h = turn @ f @ turn.mT, h @ turn.mT
    none = torch.zeros(c, n, 1, dtype=torch.float64)
    system = System(lambda x, u: x @ f.mT, lambda x: x @ h.mT, lambda mean: none, lambda y: none[:, :1])
    x = torch.from_numpy(random.standard_normal((c, 1, n)))
    scale = torch.tensor([0.1, 1.0, 20.0], dtype=torch.float64)
    for hours in (3, 7):
        o = matrix(system, x, torch.zeros(hours, c, 1, dtype=torch.float64))
        for found, unit in ((observability(o), torch.ones(n)), (observability(o, scale), scale)):
            assert found.rank.tolist() == [2] * c
            assert (found.condition > 1e12).all()
            direction = found.least * unit  # a change of the state
            expected = turn[:, :, 2]
            cosine = (direction * expected).sum(-1) / direction.norm(dim=-1)
            close(cosine.abs(), torch.ones(c), 1e-9)
            assert (found.least.gather(1, found.least.abs().argmax(1, keepdim=True)) > 0).all()


def test_fewer_rows_than_components_leave_directions_unseen():
    of = gauges()
    found = observability(matrix(of.system, of.mean, of.forcing[:1]))
    assert found.rank.tolist() == [2] * 4
    assert (found.singular[:, 2] == 0).all() and torch.isinf(found.condition).all()
    close((of.parts[1] @ found.least.unsqueeze(-1)), torch.zeros(4, 2, 1), 1e-12, scale=1.0)


def test_without_percolation_and_rain_no_discharge_tells_of_the_soil():
    """Pauwels et al. (2013): the soil reaches the river by percolation and by how it splits the rain."""
    typical = torch.tensor([50.0, 10.0, 5.0], dtype=torch.float64)

    def of(rain: float, **values: float):
        system, x = pauwels(**values)
        return observability(matrix(system, x, weather(rain)), typical)

    cut = of(0.0, percolation=0.0)
    assert cut.rank.tolist() == [2, 2, 2]
    close(cut.least, torch.tensor([[1.0, 0.0, 0.0]] * 3), 1e-12)
    dry, wet, drained = of(0.0), of(1.0), of(1.0, percolation=0.0)
    assert [r.rank.tolist() for r in (dry, wet, drained)] == [[3, 3, 3]] * 3
    assert (dry.condition > 10 * wet.condition).all()  # by percolation alone it can be known in theory
    assert (dry.least[:, 0] > 0.9).all() and (wet.least[:, 0].abs() < 0.2).all()
    unlikely = observability(matrix(*pauwels(), weather(0.0)), typical, tolerance=1e-2)
    assert unlikely.rank.tolist() == [2, 2, 2]


def test_units_do_not_decide_once_the_state_is_scaled():
    system, x = pauwels()
    metres = torch.tensor([1e-3, 1.0, 1e3], dtype=torch.float64)
    other = System(
        lambda z, u: system.move(z / metres, u) * metres,
        lambda z: system.see(z / metres),
        system.model_error,
        system.observation_error,
    )
    typical = torch.tensor([50.0, 10.0, 5.0], dtype=torch.float64)
    o, scaled = matrix(system, x, weather(1.0)), matrix(other, x * metres, weather(1.0))
    a, b = observability(o, typical), observability(scaled, typical * metres)
    close(a.condition, b.condition, 1e-9)
    close(a.least, b.least, 1e-9)
    assert (observability(scaled).condition / observability(o).condition > 10).any()


def test_what_cannot_be_judged_is_refused():
    of = gauges()
    with pytest.raises(ValueError, match="an hour of forcing"):
        matrix(of.system, of.mean, of.forcing[:0])
    o = matrix(of.system, of.mean, of.forcing[:3])
    with pytest.raises(ValueError, match="must be positive"):
        observability(o, torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64))
    o[2, 1, 1] = torch.nan
    with pytest.raises(ValueError, match=r"catchment 2 is not finite"):
        observability(o)
