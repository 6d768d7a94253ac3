#!/usr/bin/env python
"""SupSup learns a mask a task over frozen weights, and infers the task at test.

--preset quick: scikit-learn's digits, 10 pixel permutations; a minute on two CPU cores.
nns: the same, but the network has to notice by itself when a task begins.
paper: PermutedMNIST, 250 tasks, LeNet 300-100; rotated: 36 rotations; cifar100: 20 tasks x 5
classes with the task given. They need --data-dir, or a network.
"""

from dataclasses import dataclass, replace
from typing import Annotated

from tyro.conf import arg

from cls_jax.app.flags import flat, run_main
from cls_jax.app.run_config import RunConfig
from cls_jax.app.unused import check_of
from cls_jax.methods.architecture.supsup_config import SupSupConfig, SupSupHyper
from cls_jax.nets.config import NetConfig
from cls_jax.streams.config import StreamConfig

KIND = {"batch_size": 128, "drop_last": True, "normalisation": "mnist"}
PERMUTED = StreamConfig(image_size=8, scenario="permuted", tasks=10, epochs=36, **KIND)
MNIST = replace(PERMUTED, data="mnist", image_size=None, tasks=250, epochs=2)
ROTATED = replace(MNIST, scenario="rotated", tasks=36)
CIFAR = StreamConfig("cifar100", tasks=20, batch_size=128, epochs=250, normalisation="cifar10")
HELP = "how to infer the task: inference:objective:probe size:images that share one answer."
EACH = ("one_shot:H:1:1", "one_shot:G:1:1", "one_shot:H:128:128", "binary:H:1:1")
OFFICIAL = ("one_shot:H:1:128", "one_shot:G:1:128", "one_shot:H:128:128")


@dataclass(frozen=True)
class Config:
    """Everything about one experiment."""

    stream: flat(StreamConfig) = PERMUTED
    net: flat(NetConfig) = NetConfig(net="mlp", hidden=(128, 128))
    method: flat(SupSupConfig) = SupSupConfig()
    hyper: flat(SupSupHyper) = SupSupHyper(learning_rate=1e-3)
    run: flat(RunConfig) = RunConfig()
    ways: Annotated[tuple[str, ...], arg(help=HELP)] = EACH


FREE = {"told_task": False, "num_masks": 20, "num_compared": 2, "decide_every": 99}
GG = {"rule": "edge_popup", "num_outputs": 5, "classes_per_task": 5, "optimizer": "adam"}
LENET, FC = NetConfig("mlp", hidden=(300, 100)), NetConfig("mlp", hidden=(1024, 1024))
NOVELTY = SupSupHyper(1e-3, new_bound=2.2, known_rate=0.9)
WIDE = SupSupConfig(num_outputs=200, inference="binary", probe_size=128)
CHECK, END = check_of("supsup"), RunConfig(score="end")
PRESETS = {
    "quick": Config(),
    "nns": Config(method=SupSupConfig(**FREE, probe_size=128), hyper=NOVELTY, ways=()),
    "paper": Config(MNIST, LENET, SupSupConfig(), SupSupHyper(), END, OFFICIAL),
    "rotated": Config(ROTATED, FC, WIDE, SupSupHyper(), END, ("binary:H:128:128",)),
    "cifar100": Config(
        replace(CIFAR, crop_padding=4, flip=True),
        NetConfig("resnet18", 20),
        SupSupConfig(**GG, transfer=True, cosine_steps=5000),
        SupSupHyper(1e-3, 1e-4),
        ways=(),
    ),
}


def main(config: Config) -> None:
    """Checks, trains or goes on, prints the tables and writes the workdir."""
    from cls_jax.app.main import begin, execute, make_learner, make_stream, report
    from cls_jax.app.task_inference import parse_ways, report_inference

    begin(config.run)
    parse_ways(config.ways)
    stream, kinds = make_stream(config.stream), (config.stream, config.net)
    learner = make_learner("supsup", config.method, config.hyper, stream, *kinds)
    results = execute([learner], config.run, config)
    report(config, results)
    report_inference(config, learner, results)


if __name__ == "__main__":
    run_main(main, Config, PRESETS, default_preset="quick", description=__doc__, check=CHECK)
