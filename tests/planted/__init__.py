"""Bugs that are planted into the store's scripts, each in turn, to see that the state machine finds them.

`python -m tests.planted` prints what found each of them.
"""
