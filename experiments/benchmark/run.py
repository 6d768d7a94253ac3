#!/usr/bin/env python
"""How fast a method's training steps are on this machine; the same as ``cls-jax benchmark``."""

from cls_jax.app.commands.benchmark import start

if __name__ == "__main__":
    start()
