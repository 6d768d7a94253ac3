"""The operating system: checkpoints, workdirs, locks, processes, signals."""
