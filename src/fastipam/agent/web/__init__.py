"""What the agent serves over HTTP: the page, its API and the metrics."""
