"""The controller of a cluster on the Kubernetes API: pools accepted, removed nodes reclaimed."""
