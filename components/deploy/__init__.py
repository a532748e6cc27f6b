"""Put a model version into service."""
