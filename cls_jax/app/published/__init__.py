"""Numbers of others, each with its source: presets, and our results beside theirs."""
