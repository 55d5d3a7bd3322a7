"""Masquerading: pods reach what is outside of all pools by the address of their node."""
