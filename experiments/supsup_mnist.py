#!/usr/bin/env python
"""SupSup learns a mask a task over frozen weights, and infers the task at test.

--preset quick: scikit-learn's digits, 10 pixel permutations; a minute on two CPU cores.
nns: the same, but the network has to notice by itself when a task begins.
paper: PermutedMNIST, 250 tasks, LeNet 300-100; rotated: 36 rotations; cifar100: 20 tasks x 5
classes with the task given. They need --data-dir, or a network.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import arg

from cls_jax.app.flags import flat, run_main
from cls_jax.app.method_flags import flags_of
from cls_jax.app.method_presets import method_presets
from cls_jax.app.run_config import RunConfig
from cls_jax.app.variants import check_chosen, chosen
from cls_jax.nets.config import NetConfig
from cls_jax.streams.config import StreamConfig

HELP = "how to infer the task: inference:objective:probe size:images that share one answer."
EACH = ("one_shot:H:1:1", "one_shot:G:1:1", "one_shot:H:128:128", "binary:H:1:1")
OFFICIAL = ("one_shot:H:1:128", "one_shot:G:1:128", "one_shot:H:128:128")
SupSup = flags_of("supsup", "supsup_nns")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything about one experiment; supsup_nns has to notice when a task begins."""

    variant: Literal["supsup", "supsup_nns"] = "supsup"
    stream: flat(StreamConfig) = StreamConfig()
    net: flat(NetConfig) = NetConfig()
    method: flat(SupSup) = SupSup()
    run: flat(RunConfig) = RunConfig()
    inferences: Annotated[tuple[str, ...], arg(help=HELP)] = EACH


INFERENCES = {"quick": EACH, "paper": OFFICIAL, "rotated": ("binary:H:128:128",)}
NNS = method_presets("supsup_nns")["quick"]
PRESETS = {
    name: Config(
        variant="supsup_nns" if one is NNS else "supsup",
        stream=one.stream,
        net=one.net,
        method=SupSup(**one.arguments),
        run=RunConfig(**one.run),
        inferences=INFERENCES.get(name, ()),
    )
    for name, one in {**method_presets("supsup"), "nns": NNS}.items()
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
