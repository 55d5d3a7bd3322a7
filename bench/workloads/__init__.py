"""Compare IPAM plugins and libraries by workloads of pods."""
