#!/usr/bin/env python
"""DEN, a network that grows with its tasks, on permuted pixels; with --controls beside others.

--preset quick: scikit-learn's digits, 5 permutations; less than a minute on two CPU cores.
--preset paper: permuted MNIST, 10 tasks, as in the released code; needs --data-dir, or a network.
Controls: DEN without stamps, two variants, and networks that do not grow, as wide as DEN began and
ended, with the passes of its three long phases.
"""

from dataclasses import dataclass, replace

from cls_jax.app.flags import flat, hiding, run_main
from cls_jax.app.method_flags import flags_of
from cls_jax.app.method_presets import method_presets
from cls_jax.app.run_config import RunConfig
from cls_jax.app.unused import check_of
from cls_jax.core.errors import InputError
from cls_jax.nets.config import NetConfig
from cls_jax.streams.config import StreamConfig

Den = flags_of("den")
Net = hiding(NetConfig, "net", "width")  # DEN grows a perceptron


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything about one experiment."""

    stream: flat(StreamConfig) = StreamConfig()
    net: flat(Net) = Net()
    method: flat(Den) = Den()
    run: flat(RunConfig) = RunConfig()
    controls: bool = False  # also DEN's variants, and what does not grow.


CHECK = check_of("den")
PRESETS = {
    name: Config(stream=one.stream, net=Net(**vars(one.net)), method=Den(**one.arguments))
    for name, one in method_presets("den").items()
}


def main(config: Config) -> None:
    """Checks, trains or goes on, prints the table and writes the workdir."""
    from cls_jax.app.den_controls import fixed, growing
    from cls_jax.app.main import begin, execute, report

    if config.controls and config.run.sweep:
        raise InputError("sweep varies DEN alone; leave --controls out")
    begin(config.run)
    results = den, *_ = execute(list(growing(config)), config.run, config)
    if config.controls:
        units = [den.capacity[f"units of layer {n + 1}"] for n in range(len(config.net.hidden))]
        fixed_ones = list(fixed(config, [int(after[:, -1].max()) for after in units]))
        bare = den._replace(method="den no stamps", views=den.views[1:], matrix=den.matrix[:, 1:])
        others = execute(fixed_ones, replace(config.run, restart=False), config)
        results = [den, bare, *results[1:], *others]
    report(config, results)


if __name__ == "__main__":
    run_main(main, Config, PRESETS, default_preset="quick", description=__doc__, check=CHECK)
