"""An operator's commands for a cluster: changes and reports."""
