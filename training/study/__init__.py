"""Studies of many runs: what is trained for them, and the tables that they end in."""
