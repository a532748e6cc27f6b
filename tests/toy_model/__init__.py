"""A whole model on a few thousand synthetic rows: how busy three stations are, hour by hour."""
