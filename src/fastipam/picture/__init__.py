"""Pictures of a pool: each address, or group of addresses, is a cell on a Hilbert curve."""
