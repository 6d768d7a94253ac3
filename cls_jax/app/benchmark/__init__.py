"""What ``cls-jax benchmark`` measures with; PyTorch is used where it is installed."""
