"""One module per command: it takes a config, writes to the workspace, and returns a report; it prints nothing."""
