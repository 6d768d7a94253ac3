"""Networks that grow, or that a task's mask selects from."""
