"""Stands in for vLLM where processes are killed, not models measured: on PYTHONPATH before the real
one, it is started by the same command, in a moment, and answers by a hash of the request."""
