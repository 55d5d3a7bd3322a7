"""The engine on etcd v3, by its JSON gateway."""
