"""Where graphs keep what they have done so far."""
