# Completion of tidepool's command line for bash.

# The names that a file's app may have: of entries and of functions, as its text shows them.
_tidepool_names() {
    sed -n -e 's/.*:main *( *function.*/main/p' -e 's/.*name *= *["'\'']\([A-Za-z_][A-Za-z0-9_.-]*\)["'\''].*/\1/p' \
        -e 's/^ *\(local  *\)\{0,1\}\([A-Za-z_][A-Za-z0-9_]*\) *= *[A-Za-z_][A-Za-z0-9_]*:func.*/\2/p' "$1" 2>/dev/null
}

# The names of the user's jobs.
_tidepool_jobs() {
    tidepool jobs 2>/dev/null | sed -n 's/^\([^ ]*-[0-9]*\) .*/\1/p'
}

_tidepool() {
    local word line before command= i file
    line=${COMP_LINE:0:COMP_POINT}
    word=${line##*[[:space:]]}
    before=${COMP_WORDS[COMP_CWORD - 1]}
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
            run | map | devices | journal | replay | cache | new | engine | worker | jobs | attach | cancel | help) command=${COMP_WORDS[i]}; break ;;
        esac
    done
    COMPREPLY=()
    case $word in
        --color=*) COMPREPLY=($(compgen -W 'always never auto' -- "${word#--color=}")); return ;;
        --progress=*) COMPREPLY=($(compgen -W 'line plain json off' -- "${word#--progress=}")); return ;;
        --log=*) COMPREPLY=($(compgen -W tag -- "${word#--log=}")); return ;;
        *::*)
            file=${word%%::*}
            # ":" ends a word for bash: only what comes after it is replaced.
            COMPREPLY=($(compgen -W "$(_tidepool_names "$file")" -- "${word##*::}"))
            return ;;
    esac
    case $before in
        -w | --workers) COMPREPLY=($(compgen -W '1 2 4 8 16' -- "$word")); return ;;
        --journal | --joblog | --trace | --report | --profile) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
        --results) [[ $command = map ]] && compopt -o filenames && mapfile -t COMPREPLY < <(compgen -d -- "$word") && return ;;
        --columns | --halt | --limit) [[ $command = map ]] && return ;;
        --executor) COMPREPLY=($(compgen -W 'threads processes inline cluster' -- "$word")); return ;;
        -e | --listen | --monitor | --for | --revoke | --hosts | --idle-exit | --grace) return ;;
        --engine) COMPREPLY=($(compgen -W 'nats://127.0.0.1:4222' -- "$word")); return ;;
        --dir) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$word"); return ;;
    esac
    if [[ $command = help ]]; then
        COMPREPLY=($(compgen -W 'run map devices journal replay cache new engine worker jobs attach cancel' -- "$word"))
    elif [[ $word = -* ]]; then
        local options='-w --workers --executor --engine --progress --progress= --no-progress --journal --trace --report --dashboard --profile --explain --detach --log=tag --color --color= --quiet --help'
        case $command in
            run) options+=' --json' ;;
            map) options+=' --json --text --keep-going --halt --retry-failed --columns -0 --limit --tag --results --joblog' ;;
            devices | journal | replay | cache) options='--json --help' ;;
            new | jobs | attach | cancel) options='--help' ;;
            engine) options='--listen --monitor --dir --coordinator --for --revoke --help' ;;
            worker) options='-w --workers --engine --hosts --idle-exit --grace --help' ;;
            *) options+=' --verbose --watch --version -e -h -p -l -i -v -E -j -O -b' ;;
        esac
        COMPREPLY=($(compgen -W "$options" -- "$word"))
        [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} = *= ]] && compopt -o nospace
    elif [[ $command = attach || $command = cancel ]]; then
        COMPREPLY=($(compgen -W "$(_tidepool_jobs)" -- "$word"))
    elif [[ $command = engine ]]; then
        COMPREPLY=($(compgen -W 'up status token gc down' -- "$word"))
    elif [[ $command = journal || $command = replay || $command = cache ]]; then
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$word"; [[ $command = journal && $before != journal ]] && compgen -W failures -- "$word"
            [[ $command = cache ]] && compgen -W forget -- "$word")
    else
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -d -- "$word"; compgen -f -X '!*.lua' -- "$word"
            [[ $command ]] || compgen -W 'run map devices journal replay cache new engine worker jobs attach cancel help' -- "$word")
    fi
}

complete -F _tidepool tidepool
