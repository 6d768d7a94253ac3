#!/usr/bin/env python
"""RPS-Net beside itself with more or fewer paths and modules, other choices and other teachers.

--preset quick: scikit-learn's digits, perceptrons; minutes on two CPU cores. mnist, and paper:
CIFAR-100, 10 tasks x 10 classes, nine residual layers; for a GPU. Both need --data-dir.

"one module" never rests: a plain network with the same memory and distillation, and with "of four"
as many candidates, which differ in their draws. "chosen on test" is what the official code does.
"""

from cls_jax.app.ablation import start

ONE_MODULE = {"num_modules": 1, "path_tasks": 1_000_000}
CHANGES = {
    "rpsnet": {},
    "eight paths": {"num_candidates": 8},
    "one path": {"num_candidates": 1},
    "chosen on test": {"choose_on": "test"},
    "undistilled": {"distillation": "none"},
    "old classes alone": {"distillation": "old_classes"},
    "teacher as in code": {"teacher": "as_in_code"},
    "one module": {**ONE_MODULE, "num_candidates": 1},
    "one module of four": {**ONE_MODULE, "num_candidates": 4},
    "one module undistilled": {**ONE_MODULE, "num_candidates": 1, "distillation": "none"},
}

if __name__ == "__main__":
    start("rpsnet", CHANGES, usual=("one module", "one path", "rpsnet"), description=__doc__)
