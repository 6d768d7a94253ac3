"""Networks: pure functions over explicit variables, one architecture a file."""
