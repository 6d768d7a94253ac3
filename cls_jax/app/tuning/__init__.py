"""Hyper-parameters chosen on validation examples, by a grid or by Optuna."""
