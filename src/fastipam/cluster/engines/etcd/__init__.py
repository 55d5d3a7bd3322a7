"""The engine on etcd v3, through its JSON gateway."""
