#!/usr/bin/env python
"""DER with an extractor a task beside itself without each part, and beside networks of one size.

--preset quick: scikit-learn's digits, perceptrons; a minute on two CPU cores. paper: CIFAR-100,
10 tasks x 10 classes, ResNet-18, 170 passes; for a GPU, and it needs --data-dir.

"one extractor" learns all tasks with the same memory and phases: replay without growth. "one wide
extractor" does so with as many units a layer as all extractors have together in the end.
"""

from cls_jax.app.ablation import start

ONE = {"grow": False, "auxiliary_weight": 0.0}
CHANGES = {
    "der_expandable": {},
    "no auxiliary head": {"auxiliary_weight": 0.0},
    "no second phase": {"balanced_epochs": 0},
    "fresh extractors": {"warm_start": False},
    "one extractor": ONE,
    "one extractor in one phase": {**ONE, "balanced_epochs": 0},
    "one wide extractor": ONE,
}

if __name__ == "__main__":
    start(
        "der_expandable",
        CHANGES,
        usual=("one extractor", "one wide extractor", "der_expandable"),
        wide=("one wide extractor",),
        description=__doc__,
    )
