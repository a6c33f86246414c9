"""What backup.sh and restore.sh leave to Python: a snapshot of Redis, the threads' database, and the check of both.

`python -m shared.backup COMMAND`, run in the release and as the service's user. What is kept goes through standard
input and output, or descriptors that the scripts have opened: that user needs no way into the backups.
"""
