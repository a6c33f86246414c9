"""What keeps a backup from being made, or from being good."""


class BackupError(Exception):
    """The message says in one line what is wrong and what to do; it holds no credential."""
