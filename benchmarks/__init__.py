"""A script per claim about speed or memory: see README.md here."""
