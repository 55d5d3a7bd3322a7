"""Workloads of pods, for IPAM plugins and libraries: which is the fastest, and where."""
