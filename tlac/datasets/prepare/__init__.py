"""Gets datasets onto this machine, and counts them there."""
