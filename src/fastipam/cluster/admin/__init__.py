"""Commands of an operator for a cluster: changes and reports."""
