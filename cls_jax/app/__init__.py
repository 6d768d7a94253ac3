"""Command lines: flags and configs, building, running, restoring and comparing."""
