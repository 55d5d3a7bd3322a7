"""The agent's HTTP part: the page, its API and the metrics."""
