"""The settings of the published tables, resolved: one function a table.

``s_mnist("clser", 500)`` says everything that the cell of CLS-ER with a buffer of 500 needs, and
where each number comes from. Buffers that were not published are refused, never interpolated.

Source: hyper-parameters stand in hyperparameters.py, streams are those of NeurAI-Lab/CLS-ER,
datasets/, but for ER-MIR's table; "ours" marks what neither has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

from cls_jax.app.published.hyperparameters import (
    CHOSEN,
    GCIL,
    MIR_CIFAR10,
    MNIST_360,
    P_MNIST,
    R_MNIST,
    S_CIFAR10,
    S_MNIST,
    S_TINYIMAGENET,
    SOURCES,
    Rows,
)
from cls_jax.core.errors import InputError
from cls_jax.methods import signature
from cls_jax.nets.config import NetConfig
from cls_jax.streams.config import StreamConfig

BEST_ARGS = "NeurAI-Lab/CLS-ER, utils/best_args.py"
OURS = "ours"
MLP, RESNET = NetConfig(net="mlp"), NetConfig(net="resnet18", width=64)


class Preset(NamedTuple):
    """One cell of a published table.

    Attributes:
      table: e.g. "s_mnist".
      label: its row there.
      method: what is run; the label's own, unless a row varies another method.
      memory_size: slots, or 0 for a method without a memory.
      stream, net: what it learns, with what.
      arguments: the method's own.
      source: field -> where its value comes from.
    """

    table: str
    label: str
    method: str
    memory_size: int
    stream: StreamConfig
    net: NetConfig
    arguments: Mapping[str, Any]
    source: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Change:
    """Departures from a published setting, which its table then tells; none by default.

    Attributes:
      data: another data set.
      tasks: another number of tasks.
      epochs: other passes over each task.
      width: another width of the ResNet.
    """

    data: str | None = None
    tasks: int | None = None
    epochs: int | None = None
    width: int | None = None


def s_mnist(method: str, memory_size: int = 0) -> Preset:
    """Split MNIST: 5 tasks x 2 classes in label order, one pass, batch 10, perceptron."""
    stream = StreamConfig(
        data="mnist", batch_size=10, class_order="label", drop_last=True, normalisation="none"
    )
    return _preset("s_mnist", S_MNIST, stream, MLP, method, memory_size)


def p_mnist(method: str, memory_size: int = 0) -> Preset:
    """Permuted MNIST: 20 domains, one pass, batch 128, perceptron."""
    stream = _domains("permuted")
    return _preset("p_mnist", P_MNIST, stream, MLP, method, memory_size)


def r_mnist(method: str, memory_size: int = 0) -> Preset:
    """Rotated MNIST: 20 domains, one pass, batch 128, perceptron."""
    stream = _domains("rotated")
    return _preset("r_mnist", R_MNIST, stream, MLP, method, memory_size)


def mnist_360(method: str, memory_size: int = 0) -> Preset:
    """MNIST-360: nine slowly turning digits in pairs, one stream, batch 16, perceptron."""
    stream = StreamConfig(data="mnist", scenario="mnist360", batch_size=16, normalisation="none")
    return _preset("mnist_360", MNIST_360, stream, MLP, method, memory_size)


def s_cifar10(method: str, memory_size: int = 0) -> Preset:
    """Split CIFAR-10: 5 tasks x 2 classes in label order, 50 epochs, batch 32, ResNet-18."""
    stream = StreamConfig(data="cifar10", epochs=50, normalisation="cifar10", **_PICTURES)
    return _preset("s_cifar10", S_CIFAR10, stream, RESNET, method, memory_size)


def mir_cifar10(method: str, memory_size: int = 0) -> Preset:
    """Split CIFAR-10 of ER-MIR: 5 tasks x 2 classes, one pass, batch 10, ResNet-18 of width 20.

    All 10,000 images of a task, where its code holds one in twenty out.
    """
    stream = StreamConfig(data="cifar10", class_order="label", drop_last=True)
    net = NetConfig(net="resnet18", width=20)
    return _preset("mir_cifar10", MIR_CIFAR10, stream, net, method, memory_size)


def s_tinyimagenet(method: str, memory_size: int = 0) -> Preset:
    """Split TinyImageNet: 10 tasks x 20 classes in label order, 100 epochs (CLS-ER: 50).

    The data is a folder of 64x64 pictures, one folder a class; give yours with --data folder:DIR.
    """
    own = {"tasks": 10, "epochs": 100, "image_size": 64, "normalisation": "tinyimagenet"}
    stream = StreamConfig(data="folder:tiny-imagenet-200", **own, **_PICTURES)
    return _preset("s_tinyimagenet", S_TINYIMAGENET, stream, RESNET, method, memory_size)


def gcil_cifar100(
    method: str,
    memory_size: int = 0,
    distribution: Literal["uniform", "longtail"] = "uniform",
) -> Preset:
    """GCIL on CIFAR-100: 20 phases of 1000 examples, 100 epochs (CLS-ER, uniform, 200: 200).

    The normalisation is CIFAR-10's, as in the official code.

    Args:
      method: row of the table.
      memory_size: slots; 0 for a method without a memory.
      distribution: of the classes.
    """
    pictures = {key: value for key, value in _PICTURES.items() if key != "class_order"}
    stream = StreamConfig(
        data="cifar100",
        scenario="gcil",
        tasks=20,
        epochs=100,
        distribution=distribution,
        normalisation="cifar10",
        **pictures,
    )
    table = f"gcil_cifar100_{distribution}"
    return _preset(table, GCIL[distribution], stream, RESNET, method, memory_size)


TABLES = {
    "s_mnist": (s_mnist, S_MNIST),
    "p_mnist": (p_mnist, P_MNIST),
    "r_mnist": (r_mnist, R_MNIST),
    "mnist_360": (mnist_360, MNIST_360),
    "s_cifar10": (s_cifar10, S_CIFAR10),
    "mir_cifar10": (mir_cifar10, MIR_CIFAR10),
    "s_tinyimagenet": (s_tinyimagenet, S_TINYIMAGENET),
    "gcil_cifar100_uniform": (partial(gcil_cifar100, distribution="uniform"), GCIL["uniform"]),
    "gcil_cifar100_longtail": (partial(gcil_cifar100, distribution="longtail"), GCIL["longtail"]),
}
"""Table -> the function that gives a cell, and what cells there are."""


def cells(
    table: str, methods: Sequence[str] = (), memory_sizes: Sequence[int] = ()
) -> list[Preset]:
    """The cells of a table, method by method.

    Args:
      table: a name of TABLES.
      methods: these alone; all if empty.
      memory_sizes: these alone, of methods that have a memory; all if empty.

    Raises:
      InputError: for a table, a method or a size that is not there, is named twice, or is that of
        no method.
    """
    if table not in TABLES:
        raise InputError(f"table is {table!r}; use one of {', '.join(TABLES)}, s_mnist_ablations")
    cell, rows = TABLES[table]
    check_once("methods", methods)
    check_once("memory_sizes", memory_sizes)
    found = []
    for method in methods or rows:
        sized = method in rows and "memory_size" in signature(method).arguments
        sizes = (memory_sizes or rows[method]) if sized else (0,)
        found += [cell(method, size) for size in sizes]
    if memory_sizes and not any(one.memory_size for one in found):
        message = f"memory_sizes is {listed(memory_sizes)}, but {listed(methods)} has no memory"
        raise InputError(f"{message}; leave --memory-sizes out")
    return found


def check_once(name: str, given: Sequence[Any]) -> None:
    """Raises InputError for a name or a number that is given twice."""
    if len(set(given)) < len(given):
        raise InputError(f"{name} is {listed(given)}; name each once")


def listed(given: Sequence[Any]) -> str:
    """In a sentence."""
    return ", ".join(map(str, given))


def changed(preset: Preset, changes: Mapping[str, Any]) -> Preset:
    """The cell with some fields of its stream or net replaced; they are "ours" then."""

    def mine(part: Any) -> dict[str, Any]:
        return {name: value for name, value in changes.items() if name in _names(part)}

    return preset._replace(
        stream=replace(preset.stream, **mine(preset.stream)),
        net=replace(preset.net, **mine(preset.net)),
        source={**preset.source, **{f"stream.{name}": OURS for name in mine(preset.stream)}},
    )


def settings(preset: Preset) -> dict[str, Any]:
    """All of a cell as plain data, for its record; where the data lies is left out."""
    whole: dict[str, Any] = {
        k: asdict(v) if is_dataclass(v) and not isinstance(v, type) else v
        for k, v in preset._asdict().items()
    }
    whole["stream"].pop("data_dir")
    return whole


_PICTURES = {"batch_size": 32, "class_order": "label", "drop_last": True}
_PICTURES |= {"crop_padding": 4, "flip": True}


def _domains(scenario: Literal["permuted", "rotated"]) -> StreamConfig:
    return StreamConfig(
        data="mnist", scenario=scenario, tasks=20, batch_size=128, normalisation="none"
    )


def _preset(
    table: str, rows: Rows, stream: StreamConfig, net: NetConfig, method: str, memory_size: int
) -> Preset:
    """The cell; numbers go to the method or the stream, whichever has the name."""
    label = method
    if label not in rows:
        raise InputError(f"{table} has no row {label!r}; use one of {', '.join(rows)}")
    sized = "memory_size" in signature(label).arguments
    numbers = rows[label]
    if sized:
        if memory_size not in numbers:
            sizes = ", ".join(map(str, numbers))
            raise InputError(
                f"{table} has no {label} with memory_size={memory_size}; use one of {sizes}"
            )
        numbers = {**numbers[memory_size], "memory_size": memory_size}
    elif memory_size:
        raise InputError(f"{label} has no memory; leave out memory_size={memory_size}")
    method = numbers.get("method", label)
    known = signature(method).arguments
    chosen, source = CHOSEN.get((table, label), {}), {}
    published = SOURCES.get(table, SOURCES.get(method, BEST_ARGS))
    code = SOURCES.get(table, "NeurAI-Lab/CLS-ER")
    for part, names, usual in (
        ("stream", _names(stream), f"{code}, datasets ({table})"),
        ("method", known, OURS),
    ):
        source |= {f"{part}.{n}": published if n in numbers else usual for n in names}
    values = {**numbers, **chosen}
    source["net"] = f"{code}, backbone"
    return Preset(
        table=table,
        label=label,
        method=method,
        memory_size=memory_size,
        stream=replace(stream, **{n: v for n, v in values.items() if n in _names(stream)}),
        net=net,
        arguments=complete(method, {n: v for n, v in values.items() if n in known}),
        source=source,
    )


def complete(method: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of a method: those given, and the defaults of the rest."""
    known = signature(method).arguments
    whole = {name: values.get(name, one.default) for name, one in known.items()}
    return {n: float(v) if known[n].kind is float else v for n, v in whole.items()}


def _names(config: Any) -> list[str]:
    return [field.name for field in fields(config)]
