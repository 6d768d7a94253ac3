"""One run: compiled, chunk by chunk, over seeds, devices and tasks."""
