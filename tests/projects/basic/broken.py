"""A graph file that fails to import."""

raise RuntimeError("this file cannot be imported")
