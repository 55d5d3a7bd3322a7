"""Parse the configuration of a network and of a cluster into settings that do not change."""
