#!/usr/bin/env python
"""Co2L beside other losses and an encoder that learns nothing, by two classifiers.

--preset quick: scikit-learn's digits, perceptrons; minutes on two CPU cores. paper: CIFAR-10,
5 tasks x 2 classes, ResNet-18, 500 passes and 100; for a GPU, and it needs --data-dir.

The classifier of "co2l" learns from the task and the exemplars. "on all data": from every earlier
example too, which shows what the features are worth; the encoder is the same.
"""

from cls_jax.app.ablation import start

LOSSES = {
    "co2l": {},
    "undistilled": {"distillation_weight": 0.0},
    "symmetric": {"objective": "symmetric"},
    "symmetric undistilled": {"objective": "symmetric", "distillation_weight": 0.0},
    "cross-entropy": {"objective": "cross_entropy"},
    "untrained": {"learning_rate": 0.0},
}
ALL_DATA = {"reference_size": 50_000}  # as many as the larger of the two data sets has
CHANGES = {
    **LOSSES,
    **{f"{label} on all data": {**own, **ALL_DATA} for label, own in LOSSES.items()},
}

if __name__ == "__main__":
    start("co2l", CHANGES, usual=("cross-entropy", "co2l", "co2l on all data"), description=__doc__)
