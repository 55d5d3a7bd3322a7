"""Addresses and ranges: as numbers, and as text."""
