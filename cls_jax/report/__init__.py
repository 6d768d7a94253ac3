"""What people read: tables, figures, the console, results on disk. No JAX."""
