"""Whether a flight out of New York arrives 15 or more minutes late."""
