"""Score a batch, in shards."""
