"""The agent's HTTP side: the page, its API, and the metrics."""
