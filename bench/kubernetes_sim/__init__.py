"""Simulate nodes on the Kubernetes API in virtual time; ``python -m bench.kubernetes_sim``."""
