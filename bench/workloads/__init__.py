"""Lives of pods, as IPAM plugins and libraries see them: which is the fastest, and where."""
