#!/usr/bin/env python
"""HopSupSup on Split MNIST: unit masks over frozen weights, recovered without being told the task.

--preset quick: scikit-learn's digits, 5 tasks x 2 classes, five passes, 512-512; about a minute.
--preset paper: MNIST as published, one pass in batches of 128, 2048-2048; 97.43 % there (mean). It
needs --data-dir, or a network.

The mask of a task is recovered from all its test images: the method adapts to the images that it is
scored on. The rates of the recovery belong to a width: those of the quick preset were chosen on
images held out from the training split.
"""

from cls_jax.app.commands.run import start

if __name__ == "__main__":
    start("hopsupsup", description=__doc__)
