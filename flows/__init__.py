"""Prefect flows: order, retries, parameters and what one sees; the library does the work."""
