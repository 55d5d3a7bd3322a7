"""Kubernetes nodes in namespaces: kubelet, containerd, and a control plane in one of them."""
