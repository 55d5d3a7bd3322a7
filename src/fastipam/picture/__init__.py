"""Pictures of a pool: every address (or group of addresses) a cell on a Hilbert curve."""
