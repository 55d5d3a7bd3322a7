"""End-to-end tests: fastipam under the CNI plugins, podman and containerd, on a real kernel."""
