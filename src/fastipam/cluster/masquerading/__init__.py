"""Masquerading: packets from pods to addresses outside all pools get the node's address."""
