"""The same work in eager PyTorch: seconds a step, for a ratio beside ours (torch is optional).

One SGD step of the ResNet-18, and one whole DualNet batch update, on 32x32 images, in the better of
both memory formats; one CLS-ER step of the MNIST perceptron with its buffer. Time it in a process
of its own: in one process the thread pools of XLA and PyTorch spin against each other.
"""

import copy
import itertools
import time
from collections.abc import Callable

import torch
import torch.nn as nn
import torch.nn.functional as F

FORMATS = (torch.channels_last, torch.contiguous_format)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Sequential(*([conv, nn.BatchNorm2d(outputs)] if changes else []))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class Trunk(nn.Module):
    # ResNet-18 up to its four maps; pool: DualNet's max-pool after the stem.
    def __init__(self, width: int, pool: bool) -> None:
        super().__init__()
        conv, end = nn.Conv2d(3, width, 3, 1, 1, bias=False), [nn.MaxPool2d(3, 2, 1)] * pool
        self.stem = nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(), *end)
        sizes = [width, width, 2 * width, 4 * width, 8 * width]
        self.layers = nn.ModuleList(
            nn.Sequential(Block(a, b, 1 if a == b else 2), Block(b, b, 1))
            for a, b in itertools.pairwise(sizes)
        )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        maps = [self.stem(x)]
        for layer in self.layers:
            maps.append(layer(maps[-1]))
        return maps[1:]


class DualNet(nn.Module):
    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.trunk = Trunk(width, pool=True)
        dense = nn.Linear(8 * width, 256, bias=False), nn.Linear(256, 8 * width, bias=False)
        self.projector = nn.Sequential(dense[0], nn.BatchNorm1d(256), nn.ReLU(), dense[1])
        sizes = [3, width, 2 * width, 4 * width, 8 * width]
        self.fast = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, 1, 1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2))
            for a, b in itertools.pairwise(sizes)
        )
        self.linear = nn.Linear(8 * width, num_classes)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        return self.projector(self.trunk(x)[-1].mean((2, 3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block, slow_map in zip(self.fast, self.trunk(x), strict=True):
            x = block(x) * slow_map
        return self.linear(x.mean((2, 3)))


def barlow_twins(za: torch.Tensor, zb: torch.Tensor) -> torch.Tensor:
    za, zb = ((z - z.mean(0)) / z.std(0) for z in (za, zb))
    c = za.T @ zb / len(za)
    near, far = torch.diagonal(c), c - torch.diag(torch.diagonal(c))
    return (near - 1).square().sum() + 2e-3 * far.square().sum()


def resnet_step_seconds(width: int = 16, batch_size: int = 32, repeats: int = 20) -> float:
    """Seconds of one supervised SGD step of the ResNet-18, the fastest of ``repeats``."""

    def build(layout: torch.memory_format) -> Callable[[], None]:
        model = nn.ModuleList([Trunk(width, pool=False), nn.Linear(8 * width, 10)])
        model.to(memory_format=layout)
        sgd = torch.optim.SGD(model.parameters(), lr=0.03)
        x = torch.randn(batch_size, 3, 32, 32).to(memory_format=layout)
        y = torch.randint(0, 10, (batch_size,))
        return lambda: _descend(sgd, F.cross_entropy(model[1](model[0](x)[-1].mean((2, 3))), y))

    return _best(build, repeats)


def dualnet_update_seconds(width: int = 16, batch_size: int = 32, repeats: int = 5) -> float:
    """Seconds of one DualNet update (2 rounds of 2 slow steps, 2 fast ones), the fastest."""

    def build(layout: torch.memory_format) -> Callable[[], None]:
        model = DualNet(10, width).to(memory_format=layout)
        slow_sgd = torch.optim.SGD(nn.ModuleList([model.trunk, model.projector]).parameters(), 3e-4)
        sgd = torch.optim.SGD(model.parameters(), lr=0.03)
        xs = [torch.randn(batch_size, 3, 32, 32).to(memory_format=layout) for _ in range(4)]
        ys = [torch.randint(0, 10, (batch_size,)) for _ in range(2)]
        soft = torch.full((batch_size, 10), 0.1)

        def step() -> None:
            for _ in range(2):
                start = copy.deepcopy(model.state_dict())
                for _ in range(2):
                    _descend(slow_sgd, barlow_twins(model.embed(xs[0]), model.embed(xs[1])))
                with torch.no_grad():
                    for name, value in model.state_dict().items():
                        if value.is_floating_point():
                            value.copy_(torch.lerp(start[name], value, 0.05))
            for _ in range(2):
                stream, replay = model(xs[2]), model(xs[3])
                distill = F.kl_div(F.log_softmax(replay / 2, 1), soft, reduction="none").mean()
                hard = F.cross_entropy(stream, ys[0]) + F.cross_entropy(replay, ys[1])
                _descend(sgd, hard + 10 * distill)

        return step

    return _best(build, repeats)


def clser_step_seconds(
    batch_size: int = 10, replay_size: int = 32, memory_size: int = 500, repeats: int = 300
) -> float:
    """Seconds of one CLS-ER step with its full buffer, mean of the fastest of ten stretches."""
    sizes = [784, 100, 100, 10]
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
    working = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    plastic, stable = copy.deepcopy(working), copy.deepcopy(working)
    sgd = torch.optim.SGD(working.parameters(), lr=0.1)
    slots, labels = torch.rand(memory_size, 784), torch.randint(0, 10, (memory_size,))
    images, targets = torch.rand(1000, 784), torch.randint(0, 10, (1000,))
    seen = [10 * memory_size]

    def step(number: int) -> None:
        at = number * batch_size % (len(images) - batch_size)
        x, y = images[at : at + batch_size], targets[at : at + batch_size]
        drawn = torch.randperm(memory_size)[:replay_size]
        xm, ym = slots[drawn], labels[drawn]
        with torch.no_grad():
            zs, zp = stable(xm), plastic(xm)
            better = zs.softmax(1).gather(1, ym[:, None]) > zp.softmax(1).gather(1, ym[:, None])
            kept = torch.where(better, zs, zp)
        sgd.zero_grad()
        loss = 2 * F.mse_loss(working(xm), kept)
        loss = loss + F.cross_entropy(working(torch.cat([x, xm])), torch.cat([y, ym]))
        loss.backward()
        sgd.step()
        for i in range(batch_size):
            place = int(torch.randint(0, seen[0] + 1, ()))
            seen[0] += 1
            if place < memory_size:
                slots[place], labels[place] = x[i], y[i]
        for rate, average in ((1.0, plastic), (0.9, stable)):
            if torch.rand(()) < rate:
                with torch.no_grad():
                    for mean, weight in zip(
                        average.parameters(), working.parameters(), strict=True
                    ):
                        mean.mul_(0.99).add_(weight, alpha=0.01)

    stretches = []
    for stretch in range(11):
        start = time.perf_counter()
        for number in range(repeats // 10):
            step(stretch * repeats // 10 + number)
        stretches.append((time.perf_counter() - start) / (repeats // 10))
    return min(stretches[1:])


def _descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _best(build: Callable[[torch.memory_format], Callable[[], None]], repeats: int) -> float:
    """Fastest step over memory formats and repeats, in turns, after three of warm-up."""
    steps, seconds = [build(layout) for layout in FORMATS], []
    for repeat in range(3 + repeats):
        for step in steps:
            start = time.perf_counter()
            step()
            if repeat >= 3:
                seconds.append(time.perf_counter() - start)
    return min(seconds)


if __name__ == "__main__":
    torch.set_num_threads(2)
    print(f"ResNet-18 step {resnet_step_seconds():.4f} s")
    print(f"DualNet update {dualnet_update_seconds():.4f} s")
    print(f"CLS-ER step {clser_step_seconds():.6f} s")
