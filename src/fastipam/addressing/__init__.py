"""Addresses and ranges: as numbers, and as the text that people write."""
