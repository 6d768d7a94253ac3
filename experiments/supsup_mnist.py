#!/usr/bin/env python
"""SupSup learns a mask a task over frozen weights, and infers the task at test.

--preset quick: scikit-learn's digits, 10 pixel permutations; a minute on two CPU cores.
nns: the same, but the network has to notice by itself when a task begins.
paper: PermutedMNIST, 250 tasks, LeNet 300-100; rotated: 36 rotations; cifar100: 20 tasks x 5
classes with the task given. They need --data-dir, or a network.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from tyro.conf import arg

from cls_jax.app.flags import flat, run_main
from cls_jax.app.method_flags import flags_of
from cls_jax.app.run_config import RunConfig
from cls_jax.app.variants import check_chosen, chosen
from cls_jax.nets.config import NetConfig
from cls_jax.streams.config import StreamConfig

KIND = {"batch_size": 128, "drop_last": True, "normalisation": "mnist"}
PERMUTED = StreamConfig(image_size=8, scenario="permuted", tasks=10, epochs=36, **KIND)
MNIST = replace(PERMUTED, data="mnist", image_size=None, tasks=250, epochs=2)
ROTATED = replace(MNIST, scenario="rotated", tasks=36)
CIFAR = StreamConfig(data="cifar100", tasks=20, batch_size=128, epochs=250, crop_padding=4)
CIFAR = replace(CIFAR, flip=True, normalisation="cifar10")
HELP = "how to infer the task: inference:objective:probe size:images that share one answer."
EACH = ("one_shot:H:1:1", "one_shot:G:1:1", "one_shot:H:128:128", "binary:H:1:1")
OFFICIAL = ("one_shot:H:1:128", "one_shot:G:1:128", "one_shot:H:128:128")
SupSup = flags_of("supsup", "supsup_nns")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything about one experiment; supsup_nns has to notice when a task begins."""

    variant: Literal["supsup", "supsup_nns"] = "supsup"
    stream: flat(StreamConfig) = PERMUTED
    net: flat(NetConfig) = NetConfig(net="mlp", hidden=(128, 128))
    method: flat(SupSup) = SupSup(learning_rate=1e-3)
    run: flat(RunConfig) = RunConfig()
    inferences: Annotated[tuple[str, ...], arg(help=HELP)] = EACH


FREE = {"num_masks": 20, "num_compared": 2, "decide_every": 99, "probe_size": 128}
GG = {"rule": "edge_popup", "num_outputs": 5, "classes_per_task": 5, "optimizer": "adam"}
LONG = {"transfer": True, "cosine_steps": 5000, "learning_rate": 1e-3, "weight_decay": 1e-4}
NOVELTY = {"learning_rate": 1e-3, "new_bound": 2.2, "known_rate": 0.9}
LENET, FC = (NetConfig(net="mlp", hidden=hidden) for hidden in ((300, 100), (1024, 1024)))
RESNET = NetConfig(net="resnet18", width=20)
WIDE, AT_END = SupSup(num_outputs=200, inference="binary", probe_size=128), RunConfig(score="end")
PRESETS = {
    "quick": Config(),
    "nns": Config(variant="supsup_nns", method=SupSup(**FREE, **NOVELTY), inferences=()),
    "paper": Config(stream=MNIST, net=LENET, method=SupSup(), run=AT_END, inferences=OFFICIAL),
    "rotated": Config(
        stream=ROTATED, net=FC, method=WIDE, run=AT_END, inferences=("binary:H:128:128",)
    ),
    "cifar100": Config(stream=CIFAR, net=RESNET, method=SupSup(**GG, **LONG), inferences=()),
}


def main(config: Config) -> None:
    """Checks, trains or goes on, prints the tables and writes the workdir."""
    from cls_jax.app.main import begin, execute, make_learner, make_stream, report
    from cls_jax.app.task_inference import parse_inferences, report_inference

    begin(config.run)
    parse_inferences(config.inferences)
    stream = make_stream(config.stream)
    one = make_learner(*chosen(config), stream, config.stream, config.net)
    results = execute([one], config.run, config)
    report(config, results)
    report_inference(one.method, stream, results, config.inferences, config.run.workdir)


if __name__ == "__main__":
    run_main(main, Config, PRESETS, default_preset="quick", description=__doc__, check=check_chosen)
