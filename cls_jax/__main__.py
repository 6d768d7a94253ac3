"""``python -m cls_jax`` is ``cls-jax``."""

from cls_jax.app.cli import main

if __name__ == "__main__":
    main()
