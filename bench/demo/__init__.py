"""``scripts/demo``: what fastipam does, on a store that is left to be looked at."""
