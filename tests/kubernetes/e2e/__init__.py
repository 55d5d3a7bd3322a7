"""fastipam on a real Kubernetes: the chart installed on nodes in namespaces, from end to end."""
