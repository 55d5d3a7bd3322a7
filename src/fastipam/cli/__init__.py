"""The command line: what an operator types. Nothing else imports it."""
