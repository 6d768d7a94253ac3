#!/usr/bin/env python
"""What is saved in a workdir, scored again; the same as ``cls-jax evaluate``."""

from cls_jax.app.commands.evaluate import start

if __name__ == "__main__":
    start()
