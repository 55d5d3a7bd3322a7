"""One pool for many nodes: blocks of addresses leased through a linearizable store.

Nothing of this package is imported before a configuration names a cluster.
"""
