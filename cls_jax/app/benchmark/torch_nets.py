"""The networks of the twin in PyTorch: ResNet-18, the perceptron and DualNet."""

import itertools

import torch
import torch.nn as nn
import torch.nn.functional as F


def autocast(x: torch.Tensor, half: bool) -> torch.autocast:
    """Inside, products and convolutions on the device of ``x`` are bfloat16 if ``half``."""
    return torch.autocast(x.device.type, torch.bfloat16, enabled=half)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

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
        """float[b, inputs, h, w] -> float[b, outputs, h / stride, w / stride]."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class Trunk(nn.Module):
    """ResNet-18 up to its four maps; ``pool``: DualNet's max-pool after the stem."""

    def __init__(self, width: int, pool: bool, half: bool) -> None:
        super().__init__()
        self.half = half
        conv, end = nn.Conv2d(3, width, 3, 1, 1, bias=False), [nn.MaxPool2d(3, 2, 1)] * pool
        self.stem = nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(), *end)
        sizes = [width, width, 2 * width, 4 * width, 8 * width]
        self.layers = nn.ModuleList(
            nn.Sequential(Block(a, b, 1 if a == b else 2), Block(b, b, 1))
            for a, b in itertools.pairwise(sizes)
        )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """float[b, 3, h, w] -> the maps of its four stages."""
        with autocast(x, self.half):
            maps = [self.stem(x)]
            for layer in self.layers:
                maps.append(layer(maps[-1]))
        return maps[1:]


class Classifier(nn.Module):
    """ResNet-18."""

    def __init__(self, num_classes: int, width: int, half: bool) -> None:
        super().__init__()
        self.trunk = Trunk(width, pool=False, half=half)
        self.linear = nn.Linear(8 * width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float[b, 3, h, w] -> logits float[b, num_classes]."""
        return self.linear(self.trunk(x)[-1].float().mean((2, 3)))


class Perceptron(nn.Module):
    """784-100-100, ReLU."""

    def __init__(self, num_classes: int, half: bool) -> None:
        super().__init__()
        self.half = half
        self.hidden = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU())
        self.linear = nn.Linear(100, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float[b, 784] -> logits float[b, num_classes]."""
        with autocast(x, self.half):
            x = self.hidden(x)
        return self.linear(x.float())


class DualNet(nn.Module):
    """DualNet's slow trunk with its projector, and the fast network that its maps gate."""

    def __init__(self, num_classes: int, width: int, half: bool) -> None:
        super().__init__()
        self.half = half
        self.trunk = Trunk(width, pool=True, half=half)
        dense = nn.Linear(8 * width, 256, bias=False), nn.Linear(256, 8 * width, bias=False)
        self.projector = nn.Sequential(dense[0], nn.BatchNorm1d(256), nn.ReLU(), dense[1])
        sizes = [3, width, 2 * width, 4 * width, 8 * width]
        self.fast = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, 1, 1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2))
            for a, b in itertools.pairwise(sizes)
        )
        self.linear = nn.Linear(8 * width, num_classes)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Projections float[b, 8 width], for the self-supervised loss."""
        return self.projector(self.trunk(x)[-1].float().mean((2, 3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float[b, 3, h, w] -> logits float[b, num_classes]."""
        maps = self.trunk(x)
        with autocast(x, self.half):
            for block, slow_map in zip(self.fast, maps, strict=True):
                x = block(x) * slow_map
        return self.linear(x.float().mean((2, 3)))
