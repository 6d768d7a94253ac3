"""Learning from batches that come one by one: the learner, what it is given, its tasks."""
