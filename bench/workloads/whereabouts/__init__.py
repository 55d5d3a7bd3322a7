"""The contender whereabouts on an API server of its own: ``--whereabouts``."""
