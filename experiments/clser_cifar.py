#!/usr/bin/env python
"""CLS-ER learns streams of colour pictures with a ResNet-18.

--preset quick_pictures: scikit-learn's digits as 16x16 pictures, 5 tasks x 2 classes, a narrow net;
minutes on two CPU cores. The others are cells of the published tables, e.g. s_cifar10_500: Split
CIFAR-10, buffer 500, 50 epochs, ResNet width 64; for a GPU or TPU. --epochs 1 --width 16 shortens.
"""

from cls_jax.app.commands.run import start
from cls_jax.app.method_presets import cells_of

QUICK = "quick_pictures"
TABLES = "s_cifar10", "s_tinyimagenet", "gcil_cifar100_uniform", "gcil_cifar100_longtail"

if __name__ == "__main__":
    presets = (QUICK, *cells_of("clser", TABLES))
    start("clser", presets=presets, default_preset=QUICK, description=__doc__)
