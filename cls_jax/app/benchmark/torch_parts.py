"""What the twins in PyTorch share: how they run, a step of an optimizer, a buffer."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch


class How(NamedTuple):
    """Where and how a twin runs; see torch_twin.py."""

    device: str = "cpu"
    dtype: str = "float32"
    tf32: bool = True
    compiled: bool = False


def compiled(how: How, loss: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The function compiled, if that is wanted."""
    return torch.compile(loss, fullgraph=True, dynamic=False) if how.compiled else loss


def descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """One step down the gradient."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


class Buffer:
    """A full reservoir that ten times as many examples have passed, and a stream of 1,000.

    Args:
      size: slots.
      shape: of an example.
      how: where it lies.
      layout: of pictures.
    """

    def __init__(
        self, size: int, shape: tuple[int, ...], how: How, layout: torch.memory_format
    ) -> None:
        def examples(n: int) -> tuple[torch.Tensor, torch.Tensor]:
            x = torch.rand(n, *shape, device=how.device)
            y = torch.randint(0, 10, (n,), device=how.device)
            return (x if len(shape) == 1 else x.to(memory_format=layout)), y

        self.size, self.device = size, how.device
        (self.slots, self.labels), (self._x, self._y) = examples(size), examples(1000)
        self._steps = itertools.count()

    def arriving(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The next batch of the stream."""
        at = next(self._steps) * number % (len(self._x) - number)
        return self._x[at : at + number], self._y[at : at + number]

    def draw(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Different examples of the buffer."""
        drawn = torch.randperm(self.size, device=self.device)[:number]
        return self.slots[drawn], self.labels[drawn]

    def store(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Offers a batch, one example after another, as published code does."""
        for i in range(len(x)):
            place = int(torch.randint(0, 10 * self.size + 1, ()))
            if place < self.size:
                self.slots[place], self.labels[place] = x[i], y[i]
