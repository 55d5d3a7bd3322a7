"""Choose addresses and keep a network's records consistent, inside one write transaction."""
