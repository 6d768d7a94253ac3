"""Methods that learn stored examples again."""
