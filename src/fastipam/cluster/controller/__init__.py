"""The controller on the Kubernetes API: it accepts pools, and reclaims removed nodes' blocks."""
