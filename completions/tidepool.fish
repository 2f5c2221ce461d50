# Completion of tidepool's command line for fish.

set -l commands run map devices journal replay cache new engine worker jobs attach cancel help
set -l at_start "not __fish_seen_subcommand_from $commands"
set -l runs "not __fish_seen_subcommand_from devices journal replay cache new engine worker jobs attach cancel help"

# Scripts, and after FILE:: the names that the file's app may have, as its text shows them.
function __tidepool_targets
    set -l word (commandline -ct)
    if string match -q '*::*' -- $word
        set -l file (string split -m 1 :: -- $word)[1]
        sed -n -e 's/.*:main *( *function.*/main/p' -e 's/.*name *= *["\']\([A-Za-z_][A-Za-z0-9_.-]*\)["\'].*/\1/p' \
            -e 's/^ *\(local  *\)\{0,1\}\([A-Za-z_][A-Za-z0-9_]*\) *= *[A-Za-z_][A-Za-z0-9_]*:func.*/\2/p' $file 2>/dev/null \
            | string replace -r '^' "$file::"
    else
        __fish_complete_suffix .lua
    end
end

complete -c tidepool -n $at_start -a "$commands"
complete -c tidepool -n "__fish_seen_subcommand_from run map" -f -a "(__tidepool_targets)"
complete -c tidepool -n "__fish_seen_subcommand_from help" -f -a "run map devices journal replay cache new engine worker jobs attach cancel"
complete -c tidepool -n "__fish_seen_subcommand_from journal" -a failures
complete -c tidepool -n "__fish_seen_subcommand_from cache" -a forget
complete -c tidepool -n "__fish_seen_subcommand_from new worker jobs attach cancel" -f
complete -c tidepool -n "__fish_seen_subcommand_from attach cancel" -a "(tidepool jobs 2>/dev/null | string match -r '^\S*-\d+(?= )')"
complete -c tidepool -n "__fish_seen_subcommand_from engine" -f -a "up status token gc down"

complete -c tidepool -n $runs -s w -l workers -x -a "1 2 4 8 16" -d "worker threads"
complete -c tidepool -n $runs -l executor -x -a "threads processes inline cluster" -d "who runs functions that name none"
complete -c tidepool -n "not __fish_seen_subcommand_from devices journal replay cache new engine jobs attach cancel help" -l engine -x -a "nats://127.0.0.1:4222" -d "the engine of a cluster"
complete -c tidepool -n $runs -l progress -a "line plain json off" -d "progress of maps"
complete -c tidepool -n $runs -l no-progress -d "no progress"
complete -c tidepool -n $runs -l journal -r -d "where the results of maps are kept"
complete -c tidepool -n $runs -l trace -r -d "what happens, for Perfetto"
complete -c tidepool -n $runs -l detach -d "in the background"
complete -c tidepool -n $runs -l profile -r -d "which functions the time goes to"
complete -c tidepool -n $runs -l report -r -d "a page about the run"
complete -c tidepool -n $runs -l dashboard -d "a live page about the run"
complete -c tidepool -n $runs -l explain -d "why each input runs, or does not"
complete -c tidepool -n $runs -l log -x -a tag -d "names of workers before their lines"
complete -c tidepool -n $runs -l color -a "always never auto" -d "colours at the prompt"
complete -c tidepool -n $runs -l quiet -d "no banner, progress or interruption line"
complete -c tidepool -l help -d help

complete -c tidepool -n "__fish_seen_subcommand_from run map devices journal replay cache" -l json -d "as JSON"
complete -c tidepool -n "__fish_seen_subcommand_from map" -l text -d "lines are texts"
complete -c tidepool -n "__fish_seen_subcommand_from map" -l keep-going -d "failures do not end it"
complete -c tidepool -n "__fish_seen_subcommand_from map" -l limit -x -a "16M 64M 512M" -d "how long a line may be"
complete -c tidepool -n "__fish_seen_subcommand_from map" -l halt -x -a "1 3 10" -d "ends it after so many failures"
complete -c tidepool -n "__fish_seen_subcommand_from map" -l retry-failed -d "only what failed before"
complete -c tidepool -n "__fish_seen_subcommand_from map" -s 0 -d "inputs end in NUL"
complete -c tidepool -n "__fish_seen_subcommand_from map" -l columns -x -d "fields are arguments"
complete -c tidepool -n "__fish_seen_subcommand_from map" -l tag -d "inputs before results"
complete -c tidepool -n "__fish_seen_subcommand_from map" -l results -x -a "(__fish_complete_directories)" -d "a file for each input"
complete -c tidepool -n "__fish_seen_subcommand_from map" -l joblog -r -d "when each input ran, as GNU parallel writes it"

complete -c tidepool -n "__fish_seen_subcommand_from engine" -l listen -x -a "127.0.0.1:4222" -d "its address"
complete -c tidepool -n "__fish_seen_subcommand_from engine" -l monitor -x -a "127.0.0.1:8222" -d "where it tells about itself"
complete -c tidepool -n "__fish_seen_subcommand_from engine" -l dir -x -a "(__fish_complete_directories)" -d "where its files are"
complete -c tidepool -n "__fish_seen_subcommand_from worker" -l hosts -x -a "(__fish_print_hostnames)" -d "machines where ssh starts them"
complete -c tidepool -n "__fish_seen_subcommand_from worker" -l idle-exit -x -d "ends after so long without work"
complete -c tidepool -n "__fish_seen_subcommand_from worker" -l grace -x -d "for what it runs when it is to leave"
complete -c tidepool -n "__fish_seen_subcommand_from engine" -l coordinator -d "the token of scripts"
complete -c tidepool -n "__fish_seen_subcommand_from engine" -l for -x -d "a token for one machine"
complete -c tidepool -n "__fish_seen_subcommand_from engine" -l revoke -x -d "ends such a token"

complete -c tidepool -n $at_start -l version -d versions
complete -c tidepool -n $at_start -l verbose -d "why device programs are not kept"
complete -c tidepool -n $at_start -l watch -d "runs again when a file changes"
complete -c tidepool -n $at_start -s e -x -d "run code"
complete -c tidepool -n $at_start -s p -x -d "print an expression"
complete -c tidepool -n $at_start -s h -d help
complete -c tidepool -n $at_start -s l -x -d "require a module"
complete -c tidepool -n $at_start -s i -d interactive
complete -c tidepool -n $at_start -s v -d version
complete -c tidepool -n $at_start -s E -d "ignore the environment"
complete -c tidepool -n $at_start -s j -x -a "on off v dump" -d "control the JIT compiler"
complete -c tidepool -n $at_start -s O -d "control its optimisations"
complete -c tidepool -n $at_start -s b -d "save or list bytecode"
