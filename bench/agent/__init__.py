"""The agent beside its peers: processes, socket clients, memory. ``python -m bench.agent``."""
