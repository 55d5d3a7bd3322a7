"""The Kubernetes API as the cluster's shared store."""
