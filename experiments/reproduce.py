#!/usr/bin/env python
"""The cells of a published table, run beside what was published; as ``cls-jax reproduce``."""

from cls_jax.app.commands.reproduce import start

if __name__ == "__main__":
    start()
