"""One pool for many nodes, which claim blocks of its addresses in a linearizable shared store.

No module of this package is imported before a configuration names a cluster.
"""
