"""What ``cls-jax`` and the scripts of experiments/ do, a command a file; each has ``start``."""
