"""A backtest, in shares."""
