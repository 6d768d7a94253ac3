"""The seam between networks and methods: two pure functions over explicit variables."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from cls_jax.core.errors import InputError
from cls_jax.core.types import Array, PyTree, Variables


class ApplyFn(Protocol):
    """Forward pass; gives the outputs and the BatchNorm statistics after it.

    ``valid`` bool[b] keeps padded rows out of the batch statistics (None: every row counts);
    with ``train=False`` the running statistics are used and come back as they were.
    """

    def __call__(
        self, vars: Variables, x: Array, /, *, train: bool, valid: Array | None = None
    ) -> tuple[PyTree, PyTree]: ...


class MaskedFn(Protocol):
    """As ApplyFn, where the output of each of ``Net.stages`` is multiplied by its mask.

    ``masks`` are float32[b, channels], one a stage: each example has its own.
    """

    def __call__(
        self,
        vars: Variables,
        x: Array,
        /,
        *,
        masks: Sequence[Array],
        train: bool,
        valid: Array | None = None,
    ) -> tuple[Array, PyTree]: ...


class InitVarsFn(Protocol):
    """Fresh variables for inputs shaped like ``x`` (float32[b, ...])."""

    def __call__(self, key: Array, x: Array) -> Variables: ...


class Net(NamedTuple):
    """A network: ``init(key, x) -> Variables``, ``apply(vars, x, train=…) -> (outputs, stats)``.

    Attributes:
      init, apply: the network; its outputs are float32 logits unless it says otherwise.
      features: the same pass, ended before the last layer: float32[b, d]; None where a network has
        no single last layer.
      head: name of the last layer within ``Variables.params``: a Dense with "kernel" f32[d, C] and
        "bias" f32[C].
      name: what it is called; None: nothing but the place where it is registered tells.
      stages: (name within ``Variables.params``, channels) of each part whose output, behind its
        ReLU, masks can multiply: hidden layers, or the stages of a ResNet; none if nobody said so.
      masked: the same pass with such masks; None where there are no stages.
    """

    init: InitVarsFn
    apply: ApplyFn
    features: ApplyFn | None = None
    head: str | None = None
    name: str | None = None
    stages: tuple[tuple[str, int], ...] = ()
    masked: MaskedFn | None = None


def no_head(why: str, net: Net) -> InputError:
    """The sentence for a network that names no last layer.

    Args:
      why: a method needs one.
      net: that does not say which it is.
    """
    return InputError(
        f"{why}, and net {net.name or 'Net'!r} names none; give its name as head to net_from_linen "
        "or net_from_nnx, or use mlp or resnet18"
    )
