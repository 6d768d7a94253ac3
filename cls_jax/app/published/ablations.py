"""What is left of CLS-ER when a part is taken away: rows beside a published cell.

Source: the rows of Arani et al. 2022, section 5; the numbers are ours.
"""

from collections.abc import Sequence

from cls_jax.app.published.presets import Preset, check_once, complete, listed, s_mnist
from cls_jax.core.errors import InputError


def ablations(labels: Sequence[str] = (), slots: Sequence[int] = ()) -> list[Preset]:
    """S-MNIST, buffer 500: CLS-ER and what is left of it when a part is taken away; ours.

    Without consistency; with copies that follow at every step; with one copy (Mean-ER).

    Args:
      labels: these rows alone; all if empty.
      slots: 500 alone, or empty.

    Raises:
      InputError: for a row or a size that is not there, or named twice.
    """
    whole = s_mnist("clser", 500)
    own = whole.arguments
    single = {name: own[name] for name in ("memory_size", "replay_size", "learning_rate")}
    single |= {
        "consistency_weight": own["consistency_weight"],
        "ema_rate": own["stable_rate"],
        "ema_decay": own["stable_decay"],
    }

    def with_values(**changes: float) -> Preset:
        return whole._replace(arguments={**own, **changes})

    changed = {
        "clser": whole,
        "clser weight 0": with_values(consistency_weight=0.0),
        "clser rates 1": with_values(stable_rate=1.0, plastic_rate=1.0),
        "mean_er": whole._replace(method="mean_er", arguments=complete("mean_er", single)),
        "er": s_mnist("er", 500),
    }
    check_once("methods", labels)
    if unknown := [label for label in labels if label not in changed]:
        listed_rows = ", ".join(map(repr, changed))
        raise InputError(f"s_mnist_ablations has no row {unknown[0]!r}; use one of {listed_rows}")
    if tuple(slots) not in ((), (500,)):
        raise InputError(f"memory_sizes is {listed(slots)}; s_mnist_ablations has 500 alone")
    return [changed[label]._replace(label=label) for label in labels or changed]
