"""Simulate cluster mode in virtual time: thousands of nodes, one store, no waiting."""
