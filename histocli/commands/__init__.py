"""One module per subcommand; they take plain values, write to the workspace and return what is to be shown."""
