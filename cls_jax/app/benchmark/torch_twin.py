"""The same work in PyTorch, eager or compiled: seconds a step, for a ratio beside ours.

One SGD step of the ResNet-18, one whole DualNet batch update, one CLS-ER step of the MNIST
perceptron or of the ResNet-18 with its buffer, one step of ER, ER-MIR or OCS of the perceptron
(torch_replay.py); without augmentation. PyTorch is optional. Time it in a process of its own: in
one process the thread pools of XLA and PyTorch spin against each other.

Eager is the better of both memory formats. Compiled is ``torch.compile(fullgraph=True)`` in its
default mode around forward and loss, hence backward, in channels_last (which it prefers itself);
optimisers, averages and the buffer stay eager, as where only the model is compiled.

bfloat16 is autocast over float32 parameters; losses, heads and what ours keeps in float32 are
outside of it. On a GPU float32 products and convolutions may be TF32 with ``tf32`` and are not
without, cuDNN chooses its algorithms by measuring, as XLA does, and the host waits for the device
before the clock starts and before it stops, with several steps between.
"""

import copy
import time
from collections.abc import Callable
from functools import cache

import torch
import torch.nn as nn
import torch.nn.functional as F

from cls_jax.app.benchmark.torch_nets import Classifier, DualNet, Perceptron
from cls_jax.app.benchmark.torch_parts import Buffer, How, compiled, descend
from cls_jax.app.benchmark.torch_replay import er_mir_step, er_step, ocs_step

FORMATS = (torch.channels_last, torch.contiguous_format)


def barlow_twins(za: torch.Tensor, zb: torch.Tensor) -> torch.Tensor:
    """The loss of two views' projections, float[b, d] each."""
    za, zb = ((z - z.mean(0)) / z.std(0) for z in (za, zb))
    c = za.T @ zb / len(za)
    near, far = torch.diagonal(c), c - torch.diag(torch.diagonal(c))
    return (near - 1).square().sum() + 2e-3 * far.square().sum()


def resnet_step(
    how: How, layout: torch.memory_format, *, width: int, batch_size: int
) -> Callable[[], None]:
    """One supervised SGD step of the ResNet-18."""
    model = Classifier(10, width, how.dtype == "bfloat16").to(how.device, memory_format=layout)
    sgd = torch.optim.SGD(model.parameters(), lr=0.03)
    x = torch.randn(batch_size, 3, 32, 32, device=how.device).to(memory_format=layout)
    y = torch.randint(0, 10, (batch_size,), device=how.device)
    loss = compiled(how, lambda x, y: F.cross_entropy(model(x), y))
    return lambda: descend(sgd, loss(x, y))


def dualnet_update(
    how: How, layout: torch.memory_format, *, width: int, batch_size: int
) -> Callable[[], None]:
    """One DualNet update: 2 rounds of 2 slow steps, 2 fast steps."""
    model = DualNet(10, width, how.dtype == "bfloat16").to(how.device, memory_format=layout)
    slow_sgd = torch.optim.SGD(nn.ModuleList([model.trunk, model.projector]).parameters(), 3e-4)
    sgd = torch.optim.SGD(model.parameters(), lr=0.03)
    images = [torch.randn(batch_size, 3, 32, 32, device=how.device) for _ in range(4)]
    xs = [x.to(memory_format=layout) for x in images]
    ys = [torch.randint(0, 10, (batch_size,), device=how.device) for _ in range(2)]
    soft = torch.full((batch_size, 10), 0.1, device=how.device)

    def slow_loss(xa, xb):
        return barlow_twins(model.embed(xa), model.embed(xb))

    def fast_loss(x, xm, y, ym, soft):
        stream, replay = model(x), model(xm)
        distill = F.kl_div(F.log_softmax(replay / 2, 1), soft, reduction="none").mean()
        return F.cross_entropy(stream, y) + F.cross_entropy(replay, ym) + 10 * distill

    slow_loss, fast_loss = compiled(how, slow_loss), compiled(how, fast_loss)

    def step() -> None:
        for _ in range(2):
            start = copy.deepcopy(model.state_dict())
            for _ in range(2):
                descend(slow_sgd, slow_loss(xs[0], xs[1]))
            with torch.no_grad():
                for name, value in model.state_dict().items():
                    if value.is_floating_point():
                        value.copy_(torch.lerp(start[name], value, 0.05))
        for _ in range(2):
            descend(sgd, fast_loss(xs[2], xs[3], *ys, soft))

    return step


def clser_step(
    how: How,
    layout: torch.memory_format,
    *,
    batch_size: int,
    replay_size: int,
    memory_size: int,
    width: int | None = None,
) -> Callable[[], None]:
    """One CLS-ER step with a buffer that ten times as many examples have passed.

    The working network sees the replay twice, as in the official code. ``width`` is that of the
    ResNet-18, or None for the perceptron.
    """
    half, device = how.dtype == "bfloat16", how.device
    net = Perceptron(10, half) if width is None else Classifier(10, width, half)
    shape = (784,) if width is None else (3, 32, 32)
    working = net.to(device) if width is None else net.to(device, memory_format=layout)
    plastic, stable = copy.deepcopy(working), copy.deepcopy(working)
    sgd = torch.optim.SGD(working.parameters(), lr=0.1)

    buffer = Buffer(memory_size, shape, how, layout)

    def loss(x, y, xm, ym):
        with torch.no_grad():
            zs, zp = stable(xm), plastic(xm)
            better = zs.softmax(1).gather(1, ym[:, None]) > zp.softmax(1).gather(1, ym[:, None])
            kept = torch.where(better, zs, zp)
        value = 2 * F.mse_loss(working(xm), kept)
        return value + F.cross_entropy(working(torch.cat([x, xm])), torch.cat([y, ym]))

    loss = compiled(how, loss)

    def step() -> None:
        (x, y), (xm, ym) = buffer.arriving(batch_size), buffer.draw(replay_size)
        descend(sgd, loss(x, y, xm, ym))
        buffer.store(x, y)
        for rate, average in ((1.0, plastic), (0.9, stable)):
            if torch.rand(()) < rate:
                with torch.no_grad():
                    pairs = zip(average.parameters(), working.parameters(), strict=True)
                    for mean, weight in pairs:
                        mean.mul_(0.99).add_(weight, alpha=0.01)

    return step


STEPS = {
    "resnet_step": (resnet_step, 20, 1),
    "dualnet_update": (dualnet_update, 5, 1),
    "clser_step": (clser_step, 10, 30),
    "clser_resnet_step": (clser_step, 5, 1),
    "er_step": (er_step, 10, 30),
    "er_mir_step": (er_mir_step, 10, 30),
    "ocs_step": (ocs_step, 10, 5),
}
"""Name -> what builds a step, stretches timed on a CPU, steps in a stretch there."""


def seconds(name: str, sizes: dict[str, int], how: How) -> float:
    """Seconds of one step, in the fastest stretch over formats; one of each warms up.

    Built and compiled once a process, so that a second call only times.

    Args:
      name: a row of STEPS.
      sizes: arguments of its step.
      how: where and how.
    """
    _, stretches, calls = STEPS[name]
    wait = lambda: None  # noqa: E731
    if how.device == "cuda":
        stretches, calls, wait = 3, max(10, calls), torch.cuda.synchronize
    found = []
    for stretch in range(1 + stretches):
        for step in _built(name, tuple(sizes.items()), how):
            wait()
            start = time.perf_counter()
            for _ in range(calls):
                step()
            wait()
            if stretch:
                found.append((time.perf_counter() - start) / calls)
    return min(found)


@cache
def _built(name: str, sizes: tuple, how: How) -> list[Callable[[], None]]:
    """A step for each memory format that is tried, warmed up three times."""
    if how.device == "cuda":
        torch.set_float32_matmul_precision("high" if how.tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = how.tf32
        torch.backends.cudnn.benchmark = True
    pictures = "width" in dict(sizes)
    formats = FORMATS if pictures and not how.compiled else FORMATS[:1]
    steps = [STEPS[name][0](how, layout, **dict(sizes)) for layout in formats]
    for step in steps:
        for _ in range(3):
            step()
    return steps


if __name__ == "__main__":
    torch.set_num_threads(2)
    sizes = {"width": 16, "batch_size": 32}
    print(f"ResNet-18 step {seconds('resnet_step', sizes, How()):.4f} s")
    print(f"DualNet update {seconds('dualnet_update', sizes, How()):.4f} s")
    sizes = {"batch_size": 10, "replay_size": 32, "memory_size": 500}
    print(f"CLS-ER step {seconds('clser_step', sizes, How()):.6f} s")
