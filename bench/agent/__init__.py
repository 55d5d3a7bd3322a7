"""The agent and its peers: processes, socket clients, memory. ``python -m bench.agent``."""
