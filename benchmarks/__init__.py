"""Every number of the README, reproducible with one command: `make bench` or `make bench ONLY=name`."""
