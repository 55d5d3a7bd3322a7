"""Cluster mode, on real etcd members that the tests start and end."""
