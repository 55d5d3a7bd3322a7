"""Addresses, ranges, and what people write for them."""
