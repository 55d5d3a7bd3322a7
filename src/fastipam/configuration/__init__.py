"""Text in, frozen settings out: the configuration of a network and of a cluster."""
