#!/usr/bin/env python
"""DualNet learns a stream of images, a few classes at a time; as ``cls-jax run dualnet``.

--preset quick: scikit-learn's digits, 5 tasks x 2 classes, a narrow net; minutes on two CPU cores.
--preset paper: Split CIFAR-100, 20 tasks x 5 classes, one pass, ResNet width 64; for a GPU or TPU.
The official code has no CIFAR setting: "paper" takes its miniImageNet rates and its 50 examples a
task. Both take --data, e.g. --data cifar10 --data-dir ~/tensorflow_datasets.
"""

from cls_jax.app.commands.run import start

if __name__ == "__main__":
    start("dualnet", description=__doc__)
