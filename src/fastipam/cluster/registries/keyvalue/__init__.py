"""A cluster whose shared store is a key-value store with transactions: etcd."""
