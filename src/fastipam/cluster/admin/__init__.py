"""What an operator does to a cluster, from any machine."""
