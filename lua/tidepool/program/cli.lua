-- cli.lua: what main.c does in Lua: help texts, and luajit's options -j, -O and -b.

local cli = {}

local overview = [==[
Usage: tidepool [options] [script [arguments]]
       tidepool run FILE[::NAME] [--key value ...] [arguments]
       tidepool map FILE::NAME [options] <INPUT >OUTPUT
       tidepool journal FILE [failures] [--json]
       tidepool replay FILE [MAP] INDEX [--json]
       tidepool cache [FILE] [forget [FUNCTION]] [--json]
       tidepool devices [--json]
       tidepool new NAME
       tidepool engine up|status|token|gc|down
       tidepool worker --engine URL
       tidepool jobs
       tidepool attach|cancel JOB
       tidepool help [run|map|journal|replay|cache|devices|new|engine|worker|jobs|attach|cancel]

Runs Lua scripts as luajit does, with require "tidepool" built in: Lua functions
over many inputs in parallel. A script that makes an app:main has it called after it,
as by tidepool run. Without a script, on a terminal, it is interactive.

Options, as luajit has them:
  -e CODE        run CODE
  -p EXPR        print EXPR
  -l MODULE      require MODULE
  -i             interactive after the script
  -v             show the version
  -E             ignore LUA_INIT, LUA_PATH and LUA_CPATH
  -j COMMAND     control the JIT compiler (on, off, v, dump, ...)
  -O[OPTIONS]    control its optimisations
  -b ...         save or list bytecode
  -              run standard input
  --             end of the options

Options of Tidepool:
  --workers N    worker threads, 1 to 1024 (default: TIDEPOOL_WORKERS, or one for each
                 processor that the process may use, by affinity and quota)
  -w N           the same
  --executor E   who runs functions that name no executor: EXECUTORS
  --engine URL   the engine of a cluster, nats://127.0.0.1:4222, whose workers then run
                 functions that name no executor (default: TIDEPOOL_ENGINE)
  --progress[=M] progress of maps: line (on a terminal), plain, json, or off
  --no-progress  the same as --progress=off
  --journal FILE keeps the results of maps, so that the same command, run again, does
                 only what is missing
  --explain      says of each input of such a map why it runs, or does not
  --trace FILE   writes what happens, as it happens, for https://ui.perfetto.dev; compressed
                 when the name ends in .gz
  --profile FILE which functions the time goes to, in all workers: a flame graph when the
                 name ends in .svg or .html, else folded stacks
  --report FILE  writes, at the end, a page of HTML: a time line of the workers, the slowest
                 inputs, and in words what bounds the run
  --dashboard[=PORT]
                 shows, at an address that it prints, what happens while it does: maps, with
                 a button that cancels them, workers, failures; until the script ends
  --log=tag      lines that workers print begin with worker and input: w3 #17|
  --color[=WHEN] colours at the prompt: always, never, or auto (the default: on a
                 terminal where NO_COLOR is not set)
  --detach       runs the script in the background, and prints the job's name, for
                 tidepool jobs, attach and cancel
  --quiet        no banner, no progress or interruption line
  --verbose      says why compiled device programs are not kept, or not taken from where
                 they are; before the script or command: behind it, it is the script's
  --watch        runs the script again when it, or a file that it has required, has changed;
                 before the script or command, too
  --help         this text
  -h             the same
  --version      the versions of Tidepool, LuaJIT and libuv

Exit codes: 0, 1 after an error, 2 after a wrong use, and what os.exit says.
]==]

local topics = {}

topics.run = [==[
Usage: tidepool run FILE[::NAME] [--key value ...] [arguments]
       tidepool run FILE[::NAME] --help

Loads FILE and calls an entry that it made with app:main: the only one, the one
called main, or NAME. NAME may also be one of the app's functions, or a method of a
class (Model.predict): that runs once in the pool, and what it returns is printed,
with --json for machines.

An entry that gives a schema has its options checked and typed:

  app:main { args = {
    n       = { 10, "how many rounds" },
    mode    = { "fast", "how exact", choices = { "fast", "exact" } },
    k       = { { 1, 3, 5 }, "neighbours to try" },
    input   = { type = "string", required = true },
    verbose = false,
  } } (function(args) print(args.n, args.k[1], args[1]) end)

  tidepool run job.lua --n 20 --k 1,3 --input=data.csv --verbose file.txt

  --key value, --key=value    a number, a string, or a list: 1,3,5
  --key, --no-key             a boolean
  --                          the rest are plain arguments: args[1], args[2], ...
  --help                      the entry's options

Without a schema any --key is accepted: numbers, true and false are recognised.
A function's options are its parameters, by name or in their order.
The options of tidepool itself (--workers and the rest) may stand before or after FILE.
]==]

topics.map = [==[
Usage: tidepool map FILE::NAME [options] <INPUT >OUTPUT

Calls the function NAME of FILE's app (or the only one) in the pool, once for each
line of standard input, and writes what it returns, one line for each, in their order,
as soon as it is there.

  seq 1000 | tidepool map job.lua::evaluate

A line that is a number arrives as one if it is the same text when it is written again
(not 007, 1.50 or 1e5), any other as a string. Several results are separated by tabs.
The first failure ends it, with exit code 1; a result with a line end in it is one.

  --text         every line arrives as a string
  --json         lines are JSON values, also those of the output: several results are a
                 list, and a failure is { "error": message, "kind": ..., "index": ... };
                 null is tidepool.null; empty lists stay lists, and tidepool.json marks them
  --keep-going   failures do not end it: without --json they are on standard error
                 only. The exit code is 1 if there were any
  --halt N       the same, until N have failed: what runs then is finished, and no more
                 is begun
  --columns SEP  the fields of a line are arguments: SEP is between them ("\t": a tab);
                 one may be in quotes, as CSV has it, with line ends and "" in it
  -0             what is read ends in NUL, not in a line end, as find -print0 writes it
  --limit SIZE   how long a line may be (default: 16M): a longer one ends it
  --tag          each line of output begins with the input and a tab; with --columns with
                 its fields
  --results DIR  the line that input N gives goes into the file DIR/N, with line ends in it
                 if it has some, instead of to standard output. An input that fails has
                 none (with --json: what --json writes of it). DIR is made; one that has
                 files in it is taken only with --journal, and written over
  --joblog FILE  a line for each input, as GNU parallel's --joblog has them: number, start,
                 seconds, bytes of the result, exit code (0; 1 where it failed), signal
  --journal FILE the same command, run again, does only what is missing: lines that are
                 new, that are others than before at their place, or that failed
  --retry-failed with --journal: the same input again, of which only what has failed before
                 runs, and is written
  -w N, --progress, --trace, --report, --profile, --quiet, ...      as for any script
]==]

topics.journal = [==[
Usage: tidepool journal FILE [failures] [--json]

Shows what is in a journal, the file of --journal or of the option journal: for each map
how many inputs it had, what they came to, how often they were tried, and how long they
took together and at most. It may be read while a program writes to it.

  failures  the inputs that failed, with their index, arguments and error
  --json    the same as JSON: a list of objects
]==]

topics.replay = [==[
Usage: tidepool replay FILE [MAP] INDEX [--json]

Runs one input of a journal again: here and now, in this terminal, as plain Lua, so that
its prints, its traceback and a debugger's breakpoints are where they belong. MAP is the
name that tidepool journal shows; it may be missing where there is only one.

The program that the map was in is loaded, but its app:main is not called. A script that
starts the map while it is loaded is left there. Random numbers, tidepool.current() and
the parameters of a method's instance are those of the run. The journal stays as it is.

  --json    input, result or error, and whether it is the same as in the journal ("same")
]==]

topics.cache = [==[
Usage: tidepool cache [FILE] [--json]
       tidepool cache [FILE] forget [FUNCTION]

Shows what functions with the option cache have kept: for each how many results, how
large, what running them took, and when one was last found. FILE is the one that the
option names; without it, it is the user's: results.db in $XDG_CACHE_HOME/tidepool.

  forget    forgets all results, or those of the functions of that name
  --json    the same as JSON: a list of objects
]==]

topics.devices = [==[
Usage: tidepool devices [--json]

Lists the OpenCL devices that a function's option gpu can name, the one first that
gpu = true takes, or says why there are none (exit code 1).

  --json    the same as JSON: a list of objects
]==]

topics.new = [==[
Usage: tidepool new NAME

Makes NAME.lua, a script to start from: an app, a function that runs in parallel, and an
app:main that maps it over the arguments. A file that is there is left as it is.
]==]

topics.engine = [==[
Usage: tidepool engine up [--listen ADDRESS:PORT] [--monitor ADDRESS:PORT]
       tidepool engine status
       tidepool engine token [--coordinator | --for NAME | --revoke NAME]
       tidepool engine gc
       tidepool engine down

The engine of a cluster: a NATS server with JetStream, on this machine, which carries work
from scripts (tidepool --engine URL) to workers (tidepool worker --engine URL). `up` makes
its configuration and tokens, starts it and says what to run next; `status` lists the
workers; `token` shows the token of workers (TIDEPOOL_TOKEN on their machines), a secret;
`gc` removes what scripts that were killed have left on the server, which goes by itself
after three days; `down` ends it. What is under way goes on after the next `up`.

  --listen ADDRESS   where it listens, as 127.0.0.1:4222 (at first), 0.0.0.0:4222 or [::]:4222;
                     by default as the last time. Other machines reach it over TLS only, as
                     tls://HOST:4222; who has its tokens trusts it, and no other engine
  --monitor ADDRESS  where the server answers questions about itself over HTTP, to anybody, as
                     127.0.0.1:8222 (for KEDA, or for who watches it); by default nowhere
  --dir FOLDER       where its files are (default: TIDEPOOL_ENGINE_DIR, or tidepool/engine in
                     XDG_STATE_HOME, ~/.local/state)
  --coordinator      the token of scripts: who has it can run anything on all workers
  --for NAME         a token of workers for one machine, or a few: made when it is first asked
                     for. Others cannot listen to what they are sent
  --revoke NAME      ends the token that --for NAME has made, and the workers that have it

Needs nats-server and libsodium; scripts and workers need libnats and libsodium (Debian:
apt install nats-server libnats3.4 libsodium23).
]==]

topics.worker = [==[
Usage: tidepool worker --engine URL [-w N] [--hosts A,B,...]

Runs work of the cluster whose engine is at URL (default: TIDEPOOL_ENGINE), N items at once
(default: as -w of tidepool), in worker processes of this machine, for scripts of the same
build of Tidepool. TIDEPOOL_TOKEN is the token that `tidepool engine token` shows; on the
engine's machine it is found by itself.

Workers may come and go at any time. SIGTERM and Ctrl-C end one when what it runs is over,
after 30 s at most; a second one ends it at once. What it has not finished runs elsewhere.

  --hosts A,B,...      on these machines instead, by ssh, which is to work without questions;
                       nothing is installed there, and what is missing is said. They leave when
                       this process does. An engine on this machine alone (nats://127.0.0.1:...)
                       is reached through the same connections
  --idle-exit SECONDS  ends when it has had nothing to do for so long
  --grace SECONDS      how long what it runs may take when it is asked to leave (default: 30)
]==]

topics.jobs = [==[
Usage: tidepool run --detach FILE
       tidepool jobs
       tidepool attach JOB
       tidepool cancel JOB

--detach runs a script in the background, also when this terminal is closed, and prints the
name of the job: the script's, and a number. `jobs` lists your jobs on this machine, how each
does or has ended, when it began, how long it took and what it is. `attach` shows what a job
has written, and what it writes until it ends, and exits with its code; Ctrl-C leaves the job
running. `cancel` ends it as Ctrl-C in its terminal would; after 10 s it kills it.

With --journal FILE the same command, run again, does what a job that was cancelled or killed
has left. Jobs that have ended are forgotten a week later.
]==]

topics.attach, topics.cancel = topics.jobs, topics.jobs
topics.help = overview

---`tidepool help [COMMAND]` and `--help`.
---@param topic? string
---@return integer code, string? message
function cli.help(topic)
  if topic == "--help" then topic = nil end
  local text = topic == nil and overview or topics[topic]
  if not text then
    local names = {}
    for name in pairs(topics) do
      if name ~= "help" then names[#names + 1] = name end
    end
    table.sort(names)
    return 2, ("no help on '%s' (there is: tidepool help, tidepool help %s)"):format(topic, table.concat(names, ", tidepool help "))
  end
  io.stdout:write((text:gsub("EXECUTORS", function()
    local executors = require "tidepool.engine.executors"
    return executors.in_words(executors.that("runs_lua"), "%s")
  end)))
  return 0
end

local function json(value)
  if type(value) == "string" then
    return '"' .. value:gsub('[%c"\\]', function(c) return ("\\u%04x"):format(c:byte()) end) .. '"'
  end
  return type(value) == "number" and ("%.14g"):format(value) or tostring(value)
end

local device_fields = { "name", "platform", "vendor", "type", "compute_units", "memory", "fp64", "version", "driver" }

---`tidepool devices [--json]`.
---@return integer code, string? message
function cli.devices(option, more)
  if option == "--help" then return cli.help "devices" end
  if (option and option ~= "--json") or more then
    return 2, ("devices: unknown argument %s (see tidepool help devices)"):format(more or option)
  end
  local devices, why = require("tidepool.device.gpu").devices()
  if option then
    local objects = {}
    for i, d in ipairs(devices) do
      local fields = {}
      for _, name in ipairs(device_fields) do fields[#fields + 1] = ('"%s":%s'):format(name, json(d[name])) end
      objects[i] = "\n  {" .. table.concat(fields, ",") .. "}"
    end
    io.stdout:write("[", table.concat(objects, ","), #objects > 0 and "\n" or "", "]\n")
    return #devices > 0 and 0 or 1, why
  end
  if #devices == 0 then return 1, why end
  local amount_of_bytes = require("tidepool.core").amount_of_bytes
  for _, d in ipairs(devices) do
    io.stdout:write(("%s\n    %s, %d compute units, %s, %s, %s (%s)\n"):format(d.name, d.type, d.compute_units, amount_of_bytes(d.memory),
      d.fp64 and "doubles" or "no doubles", d.version, d.platform))
  end
  return 0
end

local function split(list)
  local words = {}
  for word in list:gmatch "[^,]+" do
    words[#words + 1] = word
  end
  return unpack(words)
end

---`-j COMMAND[=ARG,ARG]`: a function of the jit table, or a module jit.COMMAND.
---@param command string
function cli.jit(command)
  local name, list = command:match "^([^=]*)=?(.*)$"
  if type(rawget(jit, name)) == "function" then
    jit[name](split(list))
    return
  end
  local ok, module = pcall(require, "jit." .. name)
  if not ok or type(module) ~= "table" or not module.start then
    error(("unknown -j command '%s' (and no module jit.%s)"):format(name, name), 0)
  end
  module.start(split(list))
end

---`-O[OPTION,OPTION]`.
---@param list string
function cli.optimise(list)
  local fine, why = pcall(jit.opt.start, split(list))
  if not fine then error(why, 0) end
end

---`-b ...`: the module that comes with LuaJIT does it, with the words after `-b`.
---@param word string the word that began with -b
---@return integer code
function cli.bytecode(word, ...)
  if #word > 2 then
    require("jit.bcsave").start("-" .. word:sub(3), ...)
  else
    require("jit.bcsave").start(...)
  end
  return 0
end

return cli
