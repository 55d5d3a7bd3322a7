"""Keep a node's share of a cluster's pool, beside an agent or for one ADD."""
