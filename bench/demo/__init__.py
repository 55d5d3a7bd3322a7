"""``scripts/demo``: what fastipam does, in a minute, on a store that is left to be looked at."""
