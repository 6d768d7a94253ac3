"""cls_jax: continual learning with complementary learning systems, as pure functions of pytrees."""

__version__ = "0.1.0"
