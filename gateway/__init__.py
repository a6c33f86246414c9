"""The gateway: checks requests over HTTP, puts jobs into Redis, and tells what became of them. It runs no graph."""
