"""Steps of ER, ER-MIR and OCS with the MNIST perceptron in PyTorch; see torch_twin.py."""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, vmap

from cls_jax.app.benchmark.torch_nets import Perceptron
from cls_jax.app.benchmark.torch_parts import Buffer, How, compiled, descend

CANDIDATES, SELECTED = 50, 10
"""Of ER-MIR and of OCS, as ours by default."""


def er_step(
    how: How,
    layout: torch.memory_format,
    *,
    batch_size: int,
    replay_size: int,
    memory_size: int,
) -> Callable[[], None]:
    """One step of experience replay on batch and replay together."""
    model = Perceptron(10, how.dtype == "bfloat16").to(how.device)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    buffer = Buffer(memory_size, (784,), how, layout)
    loss = compiled(how, lambda x, y: F.cross_entropy(model(x), y))

    def step() -> None:
        (x, y), (xm, ym) = buffer.arriving(batch_size), buffer.draw(replay_size)
        descend(sgd, loss(torch.cat([x, xm]), torch.cat([y, ym])))
        buffer.store(x, y)

    return step


def er_mir_step(
    how: How,
    layout: torch.memory_format,
    *,
    batch_size: int,
    replay_size: int,
    memory_size: int,
) -> Callable[[], None]:
    """One step of ER-MIR, as in the official code: a copy of the network takes the virtual step."""
    model = Perceptron(10, how.dtype == "bfloat16").to(how.device)
    moved, rate = copy.deepcopy(model), 0.1
    sgd = torch.optim.SGD(model.parameters(), lr=rate)
    buffer = Buffer(memory_size, (784,), how, layout)
    loss = compiled(how, lambda x, y: F.cross_entropy(model(x), y))

    def rise(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        before = F.cross_entropy(model(x), y, reduction="none")
        return F.cross_entropy(moved(x), y, reduction="none") - before

    rise = compiled(how, rise)

    def step() -> None:
        x, y = buffer.arriving(batch_size)
        sgd.zero_grad()
        loss(x, y).backward()
        xm, ym = buffer.draw(min(CANDIDATES, memory_size))
        with torch.no_grad():
            for new, old in zip(moved.parameters(), model.parameters(), strict=True):
                new.copy_(old - rate * old.grad)
            chosen = rise(xm, ym).topk(replay_size).indices
        loss(xm[chosen], ym[chosen]).backward()
        sgd.step()
        buffer.store(x, y)

    return step


def ocs_step(
    how: How,
    layout: torch.memory_format,
    *,
    batch_size: int,
    replay_size: int,
    memory_size: int,
) -> Callable[[], None]:
    """One step of OCS, as in the official code: a gradient for each example of the batch."""
    model = Perceptron(10, how.dtype == "bfloat16").to(how.device)
    sgd = torch.optim.SGD(model.parameters(), lr=0.005, momentum=0.8)
    coreset = Buffer(memory_size, (784,), how, layout)
    candidates = Buffer(1000, (784,), how, layout)
    loss = compiled(how, lambda x, y: F.cross_entropy(model(x), y))

    def of_params(params: dict, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(functional_call(model, params, (x,)), y)

    def of_row(params: dict, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return of_params(params, x[None], y[None])

    gradients, reference = vmap(grad(of_row), (None, 0, 0)), grad(of_params)

    def scores(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        params = {name: weight.detach() for name, weight in model.named_parameters()}
        rows = torch.cat([g.flatten(1) for g in gradients(params, x, y).values()], 1)
        towards = reference(params, coreset.slots, coreset.labels)
        towards = torch.cat([g.flatten() for g in towards.values()])
        unit = F.normalize(rows)
        others = (unit @ unit.T).mean(1)
        mean, towards = F.normalize(rows.mean(0), dim=0), F.normalize(towards, dim=0)
        return unit @ mean - others + 1000 * (unit @ towards)

    def step() -> None:
        x, y = candidates.arriving(batch_size)
        chosen = scores(x, y).topk(min(SELECTED, batch_size)).indices
        x, y = x[chosen], y[chosen]
        descend(sgd, loss(x, y) + loss(*coreset.draw(replay_size)))
        candidates.store(x, y)

    return step
