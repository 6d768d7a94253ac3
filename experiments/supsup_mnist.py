#!/usr/bin/env python
"""SupSup learns a mask a task over frozen weights, and infers the task at test.

--preset quick: scikit-learn's digits, 10 pixel permutations; a minute on two CPU cores.
nns: the same, but the network has to notice by itself when a task begins.
paper: PermutedMNIST, 250 tasks, LeNet 300-100; rotated: 36 rotations; cifar100: 20 tasks x 5
classes with the task given. They need --data-dir, or a network.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Literal

from tyro.conf import arg

from cls_jax.app.flags import flat, run_main
from cls_jax.app.method_flags import flags_of, shared
from cls_jax.app.run_config import RunConfig
from cls_jax.app.unused import check_taken, check_used
from cls_jax.nets.config import NetConfig
from cls_jax.streams.config import StreamConfig

KIND = {"batch_size": 128, "drop_last": True, "normalisation": "mnist"}
PERMUTED = StreamConfig(image_size=8, scenario="permuted", tasks=10, epochs=36, **KIND)
MNIST = replace(PERMUTED, data="mnist", image_size=None, tasks=250, epochs=2)
ROTATED = replace(MNIST, scenario="rotated", tasks=36)
CIFAR = StreamConfig(data="cifar100", tasks=20, batch_size=128, epochs=250, normalisation="cifar10")
VARIANT = "the task is told in training, or noticed."
HELP = "how to infer the task: inference:objective:probe size:images that share one answer."
EACH = ("one_shot:H:1:1", "one_shot:G:1:1", "one_shot:H:128:128", "binary:H:1:1")
OFFICIAL = ("one_shot:H:1:128", "one_shot:G:1:128", "one_shot:H:128:128")


SupSup = flags_of("supsup", "supsup_nns")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything about one experiment."""

    variant: Annotated[Literal["supsup", "supsup_nns"], arg(help=VARIANT)] = "supsup"
    stream: flat(StreamConfig) = PERMUTED
    net: flat(NetConfig) = NetConfig(net="mlp", hidden=(128, 128))
    method: flat(SupSup) = SupSup(learning_rate=1e-3)
    run: flat(RunConfig) = RunConfig()
    inferences: Annotated[tuple[str, ...], arg(help=HELP)] = EACH


FREE = {"num_masks": 20, "num_compared": 2, "decide_every": 99, "probe_size": 128}
GG = {"rule": "edge_popup", "num_outputs": 5, "classes_per_task": 5, "optimizer": "adam"}
RATES = {"learning_rate": 1e-3, "weight_decay": 1e-4}
PRESETS = {
    "quick": Config(),
    "nns": Config(
        variant="supsup_nns",
        method=SupSup(**FREE, learning_rate=1e-3, new_bound=2.2, known_rate=0.9),
        inferences=(),
    ),
    "paper": Config(
        stream=MNIST,
        net=NetConfig(net="mlp", hidden=(300, 100)),
        method=SupSup(),
        run=RunConfig(score="end"),
        inferences=OFFICIAL,
    ),
    "rotated": Config(
        stream=ROTATED,
        net=NetConfig(net="mlp", hidden=(1024, 1024)),
        method=SupSup(num_outputs=200, inference="binary", probe_size=128),
        run=RunConfig(score="end"),
        inferences=("binary:H:128:128",),
    ),
    "cifar100": Config(
        stream=replace(CIFAR, crop_padding=4, flip=True),
        net=NetConfig(net="resnet18", width=20),
        method=SupSup(**GG, transfer=True, cosine_steps=5000, **RATES),
        inferences=(),
    ),
}


def check(config: Config, typed: Collection[str]) -> None:
    """Refuses flags that were typed and that the variant does not take."""
    taken = shared(config.variant, asdict(config.method))
    check_used(config, typed, [(config.variant, taken)])
    check_taken(typed, config.method, [taken])


def main(config: Config) -> None:
    """Checks, trains or goes on, prints the tables and writes the workdir."""
    from cls_jax.app.main import begin, conclude, execute, make_learner, make_stream
    from cls_jax.app.task_inference import parse_inferences, report

    begin(config.run)
    parse_inferences(config.inferences)
    stream, own = make_stream(config.stream), shared(config.variant, asdict(config.method))
    learner = make_learner(config.variant, own, stream, config.stream, config.net)
    results = execute([learner], config.run, config)
    conclude(config, results)
    report(config, learner, results)


if __name__ == "__main__":
    run_main(main, Config, PRESETS, default_preset="quick", description=__doc__, check=check)
