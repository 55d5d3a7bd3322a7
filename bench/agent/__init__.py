"""Benchmarks of the agent and its peers: processes, socket clients, memory."""
