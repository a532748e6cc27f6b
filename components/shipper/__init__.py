"""What ships recorded predictions, beside the server."""
