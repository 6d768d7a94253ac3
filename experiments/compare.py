#!/usr/bin/env python
"""Several methods on one stream at equal memory; the same as ``cls-jax compare``."""

from cls_jax.app.commands.compare import start

if __name__ == "__main__":
    start()
