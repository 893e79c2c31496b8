# Live names. What the agent tells is compared as text and never expanded.
_weft_names() {
    local word verb= api= kind= i
    for (( i = 1; i < COMP_CWORD; i++ )); do
        word="${COMP_WORDS[i]}"
        case "$word" in
            --) return 1 ;;
            --api) api="${COMP_WORDS[i + 1]}"; (( i++ )) ;;
            --color|--tag) (( i++ )) ;;
            -*) ;;
            *) if [[ -z $verb ]]; then verb="$word"; fi ;;
        esac
    done
    case "$verb" in
        services|resolve|explain|watch|tap) kind=services ;;
        deregister|maint) kind=ids ;;
        check) kind=checks ;;
        force-leave) kind=nodes ;;
        *) return 1 ;;
    esac
    case "$verb,$3" in
        maint,maint|check,check|tap,--path|tap,--method|tap,--code|tap,--direction|tap,--sample|tap,--limit|*,--reason|*,--note|*,--tag|*,--api|*,--color) return 1 ;;
    esac
    while IFS= read -r word; do
        if [[ $word == "$2"* ]]; then COMPREPLY+=("$word"); fi
    done < <(WEFT_API="${api:-${WEFT_API-}}" weft complete "$kind" 2>/dev/null)
}

_weft() {
    if [[ $2 != -* ]]; then
        COMPREPLY=()
        _weft_names "$@"
        if (( ${#COMPREPLY[@]} )); then return 0; fi
    fi
    _weft_static "$@"
}
