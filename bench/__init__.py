"""Measures the service against what it is built on: the bare graph, and plain arq. `python -m bench` prints and keeps the table."""
