"""Records of older versions, and what must hold of them: `python -m tests.deploy.old_records --help`."""
