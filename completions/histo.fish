set -l ask "env _HISTO_COMPLETE=complete_fish _TYPER_COMPLETE_ARGS=(commandline -cp) _TYPER_COMPLETE_FISH_ACTION"
complete --command histo --condition "$ask=is-args histo" --arguments "($ask=get-args histo)"
