"""What is seen when: scenarios as tables of integers."""
