"""`histo plot` and `histo demo`."""
