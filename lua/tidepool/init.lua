--- Tidepool: Lua functions in parallel. What `require "tidepool"` gives.

local app = require "tidepool.app"
local check = require "tidepool.base.check"
local core = require "tidepool.core"
local failure = require "tidepool.failure"
local ffi = require "ffi"
local interpret = require "tidepool.base.interpret"
local lazy = require "tidepool.base.lazy"
local loop = require "tidepool.engine.loop"

local array, gather, inputs, task = lazy "tidepool.array", lazy "tidepool.gather", lazy "tidepool.engine.inputs", lazy "tidepool.task"
local ending, event, grid = lazy "tidepool.engine.ending", lazy "tidepool.event", lazy "tidepool.grid"
local command, lines = lazy "tidepool.command", lazy "tidepool.engine.inputs.lines"
local plot = lazy "tidepool.plot"
local share, store, stream = lazy "tidepool.share", lazy "tidepool.store", lazy "tidepool.stream"
local trace = lazy "tidepool.trace"
local is_traced = ffi.cast("const bool *", core.trace.flag())

---@class tidepool
---@field int { mul32: (fun(a: number|ffi.cdata*, b: number|ffi.cdata*): integer), mul64hi: fun(a: any, b: any): ffi.cdata* }
---@field gpu { device: (fun(which: (true|string|table)?): tidepool.Device?), random: fun(seed: number, i: number, draw: number?): number }
local tidepool = {
  _VERSION = core.version,
  App = app.new,
  is_failure = failure.is_failure,
  sleep = loop.sleep,
  --- What stands for JSON's null, where a nil would leave no trace. It is cjson.null, too, and the
  -- same value in every worker. In an `if` it is true.
  null = core.null,
}

-- These functions stand for those of modules, which are loaded when they are first used.

--- A new typed array: of n zeros, or with the numbers of a list (or of another array); of a list of
-- lists, a matrix; of a list of such lists, one with planes.
---@param name string    "double", "float", "int8", "uint8", ... "int64", "uint64"
---@param from number|table  how many, or a list, or a shape: { rows = r, columns = c }, with planes = p for three dimensions, or a grid
---@param value (number|ffi.cdata*)?  where there is no list: what all elements are (0)
---@return tidepool.Array
function tidepool.array(name, from, value, extra)
  check.no_more(extra, "tidepool.array", "(type, number of elements or list, value)")
  return array.new(name, from, value)
end

--- The array that is kept in a file of NumPy's format .npy (numpy.save, array:save): a matrix where
-- it has rows and columns; with planes where it has three dimensions.
---@param path string
---@return tidepool.Array
function tidepool.load_array(path, extra)
  return array.load(path, extra)
end

--- Numbers from..to in steps, lazily; `to` may be infinite.
---@param from number  or the count when it is the only argument: 1..from
---@param to number?
---@param step number?    default: 1
---@return table
function tidepool.range(from, to, step, extra)
  return inputs.range(from, to, step, extra)
end

--- The places of a matrix of so many rows and columns, row by row, as inputs:
--- f:map(tidepool.grid(h, w)) calls f(y, x), from f(1, 1) to f(h, w), and its results' array() is
--- such a matrix. With three numbers, planes, rows and columns: f(z, y, x). It is a shape for
--- tidepool.array, too.
---@param rows integer
---@param columns integer
---@param third integer?
---@return tidepool.Grid
function tidepool.grid(rows, columns, third, extra)
  return grid.new(rows, columns, third, extra)
end

--- The three values of a generic for, as one input: tidepool.iter(pairs(t)).
---@param f function     gives the next control value, and what goes with it
---@param state any
---@param control any
---@return table
function tidepool.iter(f, state, control, extra)
  return inputs.iter(f, state, control, extra)
end

--- The same value with every input of a map: f:map(xs, tidepool.const(5)).
---@param value any
---@return table
function tidepool.const(value, extra)
  return inputs.const(value, extra)
end

--- A large constant: encoded here, once, and decoded once by each worker that uses it, however
--- often it is captured or passed. data() gives the value.
---@param value any  as it is now: what is changed later is not seen by the workers
---@return tidepool.Shared
function tidepool.share(value, extra)
  return share.new(value, extra)
end

--- A dictionary that the script and all workers share, by reference: dict:get(k), put(k, v), add(k,
--- n), update(k, fn), pop(k), #dict, dict:pairs(). Values are copies; typed arrays, Dicts and
--- Queues in them stay the same ones.
---@param entries table?  what is in it first
---@return tidepool.Dict
function tidepool.Dict(entries, extra)
  return store.new_dict(entries, extra)
end

--- A queue that the script and all workers share, by reference: queue:put(v), get(), each(),
--- close(), #queue. Each value is taken once; they are copies.
---@param given { capacity: integer? }?  how many values wait at most, before put waits; default: any number
---@return tidepool.Queue
function tidepool.Queue(given, extra)
  return store.new_queue(given, extra)
end

--- The lines of files, one after the other, as inputs of a map: f:map(tidepool.lines "big.log").
-- They come to the workers as they lie in the file, so that the script itself makes no string of
-- each; their indexes are their numbers. With `columns` f:starmap gets the fields of each as its
-- arguments, and a loop, or f:map, a list of them. Each map and each loop begins at the beginning.
---@param from string|table|file*  a path, a list of paths, or an open file, which is read from where it is
---@param given { separator: string?, columns: string?, limit: (string|number)? }?  what ends a line ("\n"); what separates fields, as "," does,
---   where a field may be in quotes as CSV has it; how long a line may be ("16M")
---@return tidepool.Lines
function tidepool.lines(from, given, extra)
  return lines.new(from, given, extra)
end

--- Runs fn(...) as a task: at once up to the first place where it waits, and on from there while
--- others wait. Inside of it everything that waits lets the others go on, and, where that was some
--- milliseconds ago, what starts something does too.
---@param fn function
---@param ... any     its arguments
---@return tidepool.Task
function tidepool.async(fn, ...)
  return task.async(fn, ...)
end

--- Something that is waited for until somebody says that it has happened, as a callback of luv's
-- does: event:set(...), event:get().
---@return tidepool.Event
function tidepool.event(extra)
  return event.new(extra)
end

--- Waits for all; cancels the rest when one fails, and raises its failure.
---@param ... any  calls, tasks, maps and events, or one list of them; then options: { return_exceptions = true }
---@return any ...  the first value of each (of a map: its list); as one list when a list was given
function tidepool.gather(...)
  return gather.gather(...)
end

--- Waits until some have finished.
---@param calls table  a list of calls, tasks, maps and events
---@param given { n: integer?, timeout: number? }?  how many to wait for (1, and no more than there are), how many seconds at most
---@return table finished, table rest  both in the order of the list
function tidepool.wait(calls, given, extra)
  return gather.wait(calls, given, extra)
end

--- Goes over calls, tasks, maps or events as they finish: for call in tidepool.as_completed(calls)
-- do print(call:get()) end
---@param calls table  a list
---@return tidepool.AsCompleted  an iterator, to which more can be added
function tidepool.as_completed(calls, extra)
  return gather.as_completed(calls, extra)
end

-- they load a module in their first call before they pass `...` on
interpret(tidepool.async, tidepool.gather)

--- Inside a mapped function: which item runs, and where. nil outside of one.
---@return table?  { index, attempt, function_name, worker, executor }
function tidepool.current(extra)
  check.no_more(extra, "tidepool.current", "no arguments")
  local index, attempt, function_name, worker, executor = core.current()
  if not index then return nil end
  return { index = index, attempt = attempt, function_name = function_name, worker = worker, executor = executor }
end

--- A stream of random numbers of one's own: called like math.random, it gives the numbers that this
-- seed and this i have, on every machine. In a mapped function math.random is such a stream
-- already, another one for each input. It travels as a copy, which goes on where the original was.
---@param seed number  any number; the streams of two seeds are unrelated
---@param i number?    which of the seed's streams: any number, 0 when it is missing; neighbours are unrelated, too
---@return tidepool.Random  random() in [0, 1), random(m) from 1 to m, random(m, n) from m to n
function tidepool.random(seed, i)
  return stream.new(seed, i)
end

--- Runs a program with these words as its arguments, without a shell, and waits for it; in a task
--- others go on meanwhile: tidepool.command { "gzip", "-k", file }. It is killed, with its process
--- group, when the wait ends early.
---@param given table  the words; cwd: the folder that it runs in; stdin: what it reads; check = false: failing is no error
---@return { status: integer?, signal: integer?, stdout: string, stderr: string }  what fails raises a failure that has these fields
function tidepool.command(given, extra)
  return command.run(given, extra)
end

--- Makes a class known: tables with this metatable then travel to workers and back, with their
-- methods.
---@param name string
---@param metatable table
---@return table metatable
function tidepool.class(name, metatable, extra)
  check.no_more(extra, "tidepool.class", "(name, metatable)")
  if type(name) ~= "string" or name == "" then check.fail("tidepool.class: expected a name, got %s", check.show(name)) end
  if type(metatable) ~= "table" then check.fail("tidepool.class: expected a metatable, got %s", check.show(metatable)) end
  core.add_class(name, metatable, true)
  return metatable
end

--- The OpenCL devices of this machine, the best first: those that option gpu can name.
--- is_stuck: so far it has not come back from what nobody waits for any more, and is not used
--- beside that.
---@return table    list of { name, platform, vendor, type, compute_units, memory, fp64, version, driver, is_stuck }
---@return string?  why there are none
function tidepool.devices(extra)
  check.no_more(extra, "tidepool.devices", "no arguments")
  local devices, why = require("tidepool.device.gpu").devices()
  for _, d in ipairs(devices) do d.is_stuck = core.device.is_stuck(d.number, 0) end
  return devices, why
end

--- Seconds on a clock that only goes forward: for measuring.
---@return number
function tidepool.now(extra)
  check.no_more(extra, "tidepool.now", "no arguments")
  return core.loop.now()
end

--- How many worker threads there may be. With a number: sets it, for the maps that follow. There
--- may be more later, but not fewer than have started. (`-w N` and TIDEPOOL_WORKERS say it from
--- outside; without any of them it is the processors that this process may use, by its affinity
--- mask and its control group's quota.)
---@param n integer?  1 to 1024
---@return integer
function tidepool.workers(n, extra)
  check.no_more(extra, "tidepool.workers", "how many there may be")
  if n == nil then return (core.workers()) end
  if core.in_item then check.fail "tidepool.workers: only the script can set the number of workers" end
  if type(n) ~= "number" or n < 1 or n > 1024 or n % 1 ~= 0 then
    check.fail("tidepool.workers: expected a whole number from 1 to 1024, got %s", check.show(n))
  end
  local most, alive = core.workers(n)
  if most ~= n then check.fail("tidepool.workers: %d workers have started, so that %d is too few: call it before the first map", alive, n) end
  return most
end

--- Begins to write what happens to a file, in Chrome's trace format, which https://ui.perfetto.dev
-- opens; one at a time. It ends with trace:stop(), or with the script. Compressed when the name
-- ends in ".gz".
---@param path string
---@return tidepool.Trace
function tidepool.trace(path, extra)
  return trace.start(path, extra)
end

local function span(...)
  return trace.span(...)
end

--- Calls fn(...), and gives what it returns; in a trace this is a box of that name, in the item, in
-- the task or on the script's track. Without one it is the call alone.
---@param name string
---@param fn function
---@param ... any  its arguments
---@return any ...
function tidepool.span(name, fn, ...)
  if is_traced[0] or type(name) ~= "string" or type(fn) ~= "function" then return span(name, fn, ...) end
  return fn(...)
end
interpret(span) -- not tidepool.span, which is compiled with what calls it

--- A point in time, in a trace: with a number as its value a step of a curve of that name, with a
-- string, or without a value, a mark where it happens. Without a trace it does nothing.
---@param name string
---@param value (number|string)?
function tidepool.mark(name, value, extra)
  return trace.mark(name, value, extra)
end

--- Prints a small chart: ys over xs, or over 1, 2, ...; with lines between neighbours where the xs
-- rise from one to the next, else as points. With braille characters where the environment says
-- UTF-8 (LC_ALL, LC_CTYPE, LANG). What is not finite is left out.
---@param xs number[]|tidepool.Array|tidepool.Results  without ys: these
---@param ys (number[]|tidepool.Array|tidepool.Results)?  as many
function tidepool.plot(xs, ys, extra)
  plot.print(xs, ys, extra)
end

--- Lets tasks, callbacks and luv's handles go on as far as they can without waiting: for a program
-- with a loop of its own, such as a game, once a round.
function tidepool.step(extra)
  check.no_more(extra, "tidepool.step", "no arguments")
  loop.step_of_script()
end

--- Runs until all tasks have ended, everything that was spawned is done, and luv has no active
--- handle left that keeps a loop going (a server, a timer), or uv.stop() was called; handles do not
--- count once the script has called uv.run() itself. The binary does so at the end of a script.
---@return table  the failures of calls and tasks that nobody has asked for
function tidepool.loop(extra)
  check.no_more(extra, "tidepool.loop", "no arguments")
  return ending.finish()
end

core.add_builtins("tidepool", tidepool)

-- tidepool.gpu and tidepool.int are loaded when they are used.
setmetatable(tidepool, { __index = function(_, key)
  if key == "gpu" then return require "tidepool.device.gpu" end
  if key == "int" then return require "tidepool.int" end
  check.missing("tidepool", key, tidepool, "function", check.of_functions)
end })

return tidepool
