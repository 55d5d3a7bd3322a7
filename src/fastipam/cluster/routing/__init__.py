"""The routes between nodes, which an agent sets in the kernel: see docs/cluster.md."""
