"""Lower and upper bounds, and what a memory alone can do."""
