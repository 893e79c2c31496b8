# Live names.
complete -c weft -n "__fish_weft_using_subcommand services resolve explain watch tap" -f -a "(weft complete services 2>/dev/null)"
complete -c weft -n "__fish_weft_using_subcommand deregister" -f -a "(weft complete ids 2>/dev/null)"
complete -c weft -n "__fish_weft_using_subcommand maint; and __fish_seen_subcommand_from on off status" -f -a "(weft complete ids 2>/dev/null)"
complete -c weft -n "__fish_weft_using_subcommand check" -f -a "(weft complete checks 2>/dev/null)"
complete -c weft -n "__fish_weft_using_subcommand force-leave" -f -a "(weft complete nodes 2>/dev/null)"
