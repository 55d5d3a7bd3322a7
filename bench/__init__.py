"""The benchmarks of fastipam and its peers. ``python -m bench`` runs them; see README.md."""
