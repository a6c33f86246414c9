"""Measures the service beside what it is built on, the bare graph and plain arq: `python -m bench`."""
