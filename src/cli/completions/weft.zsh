# Live names, beside what clap's function offers.
_weft_names() {
    local word verb= api= kind= i
    for (( i = 2; i < CURRENT; i++ )); do
        word="${words[i]}"
        case "$word" in
            --) return 1 ;;
            --api) (( i++ )); api="${words[i]}" ;;
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
    case "$verb,${words[CURRENT - 1]}" in
        maint,maint|check,check|tap,--path|tap,--method|tap,--code|tap,--direction|tap,--sample|tap,--limit|*,--reason|*,--note|*,--tag|*,--api|*,--color) return 1 ;;
    esac
    local -a names
    names=("${(@f)$(WEFT_API="${api:-${WEFT_API-}}" weft complete "$kind" 2>/dev/null)}")
    names=("${(@)names:#}")
    (( ${#names} )) && compadd -a names
}

_weft() {
    if [[ ${words[CURRENT]} != -* ]] && _weft_names; then return 0; fi
    _weft_static "$@"
}
