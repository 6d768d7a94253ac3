"""Complementary learning systems: a fast learner and a slow one."""
