"""What a step of training costs, for networks side by side and one after the other, and for series likewise."""

import time
from dataclasses import replace

import pytest
import torch

from hydroda.reproduction import constant_speed, rkn2025
from hydroda.teaching import training
from hydroda.teaching.losses import along
from hydroda.teaching.training import Plan, Task

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
LEVEL, SERIES = 40, 20


def seconds(network: rkn2025.Network, nets: int, batch: int) -> float:
    """Processor time of one window of 50 steps, forth and back, the best of three."""
    series = constant_speed.drawn(LEVEL, SERIES, 1, steps=50).series
    state, observation = (each.repeat(nets, 1) for each in rkn2025.scales(series))
    start = {name: t.float() for name, t in network.initial(state, observation, range(nets)).items()}
    rows = torch.arange(SERIES).repeat(nets, 1)
    loss = along(network.loss)

    def build(weights, of):
        return network.build(constant_speed.system(of.parameters), weights=weights)

    task = Task(build, loss, loss, series, rows, series, rows)
    shapes = {name: t.shape for name, t in start.items() if not name.startswith("fixed.")}
    fixed = {name: t for name, t in start.items() if name not in shapes}

    def unpacked(packed):
        parts = packed.split([shape[1:].numel() for shape in shapes.values()], 1)
        return fixed | {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}

    plan, taken = Plan(1, batch=batch, window=50, lengths=((0, 50),)), []
    state_of = training._fresh(torch.cat([start[name].flatten(1) for name in shapes], 1))
    for _ in range(3):
        begun = time.process_time()
        training._iteration(replace(state_of), task, plan, unpacked)
        taken.append(time.process_time() - begun)
    return min(taken)


@pytest.mark.parametrize("network", rkn2025.NETWORKS, ids=lambda n: n.name)
def test_what_a_step_costs(network):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    one, batch, stack = (seconds(network, *how) for how in ((1, 1), (1, SERIES), (15, SERIES)))
    torch.set_num_threads(threads)
    told = (
        "\n{}: a window of 50 steps of one series {:.3f} s; {} series {:.3f} s, {:.1f} times faster than in a loop; 15 "
    )
    told += "networks of as many {:.3f} s, {:.1f} times faster than in a loop"
    side, deep = SERIES * one / batch, 15 * batch / stack
    print(told.format(network.name, one, SERIES, batch, side, stack, deep))
    assert side > 1.0 and deep > 1.0
