"""What an operator does to a cluster, and asks about it."""
