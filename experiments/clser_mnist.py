#!/usr/bin/env python
"""CLS-ER learns MNIST's streams with a perceptron; seeds and sweeps run side by side.

--preset quick: scikit-learn's digits, 5 tasks x 2 classes, three passes; seconds on two CPU cores.
The others are cells of the published tables, e.g. s_mnist_500: Split MNIST, buffer 500. They need
--data-dir, or a network. --sweep consistency_weight 0.5 1 2 runs several values at once.
"""

from cls_jax.app.commands.run import start
from cls_jax.app.method_presets import cells_of

TABLES = "s_mnist", "p_mnist", "r_mnist", "mnist_360"

if __name__ == "__main__":
    start("clser", presets=("quick", *cells_of("clser", TABLES)), description=__doc__)
