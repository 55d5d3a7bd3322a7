"""Choose addresses and keep a network's records in step, inside one write transaction."""
