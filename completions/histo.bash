_histo_completion() {
    local IFS=$'\n'
    COMPREPLY=($(env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD="$COMP_CWORD" _HISTO_COMPLETE=complete_bash "$1"))
}
complete -o default -F _histo_completion histo
