"""Keep a node's blocks of a cluster's pool, in an agent or for one ADD."""
