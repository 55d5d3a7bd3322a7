"""whereabouts on an API server of its own, as a contender: ``--whereabouts``."""
