--- The functions that the C API calls (host/embed/api.c), in the host's own Lua state.

local abi = require "tidepool.base.abi"
local app = require "tidepool.app"
local check = require "tidepool.base.check"
local columns = require "tidepool.engine.inputs.columns"
local core = require "tidepool.core"
local describe = require "tidepool.base.describe"
local failure = require "tidepool.failure"
local ffi = require "ffi"
local func = require "tidepool.func"
local interpret = require "tidepool.base.interpret"
local lazy = require "tidepool.base.lazy"
local loop = require "tidepool.engine.loop"
local options = require "tidepool.options"
local results = require "tidepool.results"
local spawned = require "tidepool.engine.spawned"

local maps, show = lazy "tidepool.engine.maps", lazy "tidepool.base.show"

local embed = {}

-- The library promises never to print, and never to end the process.
print = core.io.print
core.add_builtins("_G", _G) -- so that it travels by its name
local files = getmetatable(io.stdout).__index
files.write = core.io.writer(files.write)
io.write = core.io.writer(io.write, io.output) -- luacheck: globals io.write
-- C's system() changes the process's signal handling.
os.execute = core.io.execute -- luacheck: globals os.execute

--- os.exit is an error here: the program is the embedder's.
function os.exit(code)
  error(("os.exit(%s) called in an embedded host"):format(code == nil and "" or tostring(code)), 2)
end

-- ---- failures ----

--- The fields of a tp_failure for any error: kind, message, traceback, text, index, attempts,
--- value. A plain text is a complaint of ours about how the C API was used, since errors of users'
--- code have become Failures before.
function embed.explain(raised)
  if failure.is_failure(raised) then
    return raised.kind, rawget(raised, "message"), rawget(raised, "traceback") or "", tostring(raised), raised.index, raised.attempts or 1,
      rawget(raised, "value")
  end
  if core.loop.is_interrupt(raised) then return abi.kind.CANCELLED, "interrupted", "", "interrupted", nil, 0, nil end
  if core.loop.is_memory_error(raised) then return abi.kind.MEMORY, abi.NO_MEMORY, "", abi.NO_MEMORY, nil, 0, nil end
  -- our own position is of no use to others
  local message = describe.without_place(describe.message(raised))
  return abi.kind.USAGE, message, "", message, nil, 0, nil
end

--- A Failure of what users' code raised, with its traceback.
local function trouble(value)
  if failure.is_failure(value) then return value end
  return failure.new { kind = failure.kind_of(value), value = value, message = describe.message(value), attempts = 1,
    traceback = describe.traceback(debug.traceback("", 2)) }
end

local function give(fine, ...)
  if fine then return ... end
  error((...), 0)
end

local function call_user(fn, ...)
  local n, arguments = select("#", ...), { ... }
  return give(xpcall(function() return fn(unpack(arguments, 1, n)) end, trouble))
end

local function fail(format, ...)
  error(format:format(...), 0)
end

-- ---- running code ----

--- A chunk that did not load: the compiler's message is the user's error.
local function check_chunk(chunk, problem)
  if chunk then return chunk end
  error(failure.new { kind = failure.kind_of(problem), value = problem, message = problem, attempts = 1 }, 0)
end

--- Runs a chunk. Its Apps can be found by name afterwards, and replace those that the chunk of the
--- same name made before: so a program that runs code again and again does not grow.
local function run(chunk, source)
  local before = app.made_by(source)
  app.keep(true)
  local fine, why = pcall(call_user, chunk)
  app.keep(false)
  if fine then return app.forget(before) end
  local is_old, new = {}, {}
  for _, one in ipairs(before) do is_old[one] = true end
  for _, one in ipairs(app.made_by(source)) do
    if not is_old[one] then new[#new + 1] = one end
  end
  app.forget(new)
  error(why, 0)
end

function embed.run_file(path)
  run(check_chunk(loadfile(path)), "@" .. path)
end

function embed.run_string(code, name)
  run(check_chunk(loadstring(code, name or code)), name or code)
end

--- The entries of that name in all apps; all entries when it is nil.
local function find_entries(name)
  local found = {}
  for _, one in ipairs(app.list()) do
    for _, entry in ipairs(one.entries) do
      if name == nil or entry.name == name then found[#found + 1] = entry end
    end
  end
  return found
end

-- functions of tp_function_from_lua and tp_function_from_c -> their names, until their handles are
-- closed
local made = {}

--- The functions called "name" or "app.name".
local function find_functions(name)
  local found = {}
  for f, own in pairs(made) do
    if own == name then found[f] = own end
  end
  for _, one in ipairs(app.list()) do
    for own, f in pairs(one.functions) do
      if own == name or one.name .. "." .. own == name then found[f] = one.name .. "." .. own end
    end
  end
  local list, full = {}, {}
  for f, long in pairs(found) do list[#list + 1], full[#full + 1] = f, long end
  table.sort(full)
  return list, table.concat(full, ", ")
end

--- A global, or a field of one: "table.concat".
local function find_global(name)
  local value = _G
  for part in name:gmatch "[^.]+" do
    if type(value) ~= "table" then return nil end
    value = rawget(value, part)
  end
  return type(value) == "function" and value or nil
end

local function find_callable(name)
  local entries = find_entries(name)
  if #entries == 1 then return entries[1].fn end
  if name == nil then fail(#entries == 0 and "there is no entry (app:main)" or "there are %d entries: name one", #entries) end
  if #entries > 1 then fail("there are %d entries called '%s'", #entries, name) end
  local functions, names = find_functions(name)
  if #functions > 1 then fail("there are several functions '%s': %s", name, names) end
  local found = functions[1] or find_global(name)
  if not found then fail("there is no entry, decorated function or global function '%s'", name) end
  return found
end

function embed.call(name, ...)
  return call_user(find_callable(name), ...)
end
interpret(embed.call)

-- ---- functions ----

local function define(raw, name, given)
  local checked = options.check("options", options.of_functions, given or {})
  local f = func.new(raw, checked.name or name, checked)
  made[f] = checked.name or name
  return f
end

function embed.from_lua(name, source, given)
  local raw = call_user(check_chunk(loadstring(source, "=" .. name)))
  if type(raw) ~= "function" then fail("the source of '%s' returned %s: it should be a chunk that returns a function", name, check.show(raw)) end
  return define(raw, name, given)
end

function embed.from_c(name, callee, given)
  local invoke = core.invoke
  return define(function(...) return invoke(callee, ...) end, name, given)
end

function embed.find(name)
  local functions, names = find_functions(name)
  if #functions > 1 then fail("there are several functions '%s': %s", name, names) end
  if not functions[1] then fail("there is no function '%s': none was decorated, or made, with that name", name) end
  return functions[1]
end

--- Called when the handle of a function is closed.
function embed.forget(f)
  made[f] = nil
end

-- ---- maps ----

local FIRST_BLOCK, LARGEST_BLOCK = 512, 16384

--- A source of columns of doubles: copy(address, map, first, count) copies them to the memory of
--- core.job.numbers.
local function doubles(map, copy, width, n)
  local at, block = 0, FIRST_BLOCK
  return { total = n, is_cheap = true, fill = function(_, job, room)
    local to = math.min(n, at + room)
    while at < to do
      local count = math.min(to - at, block)
      copy(core.job.numbers(job, count, width), map, at, count)
      core.job.push_columns(job, count)
      at = at + count
      block = math.min(block * 4, LARGEST_BLOCK)
    end
    return at >= n
  end }
end

--- A source of inputs that C pushes: push(map, i) returns the arguments of input i, from 0.
local function rows(map, push, n)
  local at = 0
  local source = { total = n, is_cheap = true, always_gives_way = true }
  function source.fill(_, job, room)
    local to = math.min(n, at + room)
    local deadline = columns.deadline(source)
    while at < to do
      local has_room, why, kind = core.job.add(job, push(map, at))
      at = at + 1
      if has_room == nil then
        columns.push_unsent(source, job, why, kind)
      elseif not has_room then
        core.job.push(job)
      end
      if columns.is_late(deadline) then break end
    end
    core.job.push(job)
    source.has_more = at < to
    return at >= n
  end
  return source
end

--- Starts a map. `map` is the tp_map, whose inputs `read` reads; width is nil for rows. Returns the
--- Results, and whether results only come while somebody waits for them.
function embed.map(f, map, read, width, n, given)
  local source = width and doubles(map, read, width, n) or rows(map, read, n)
  local settings = given and options.check("options", options.of_calls, given) or {}
  return maps.start(f, source, settings), options.executor(f.options).by_owner
end

local RESULT, END, FAILURE, LATER = abi.step.RESULT, abi.step.END, abi.step.FAILURE, abi.step.LATER

--- One step: RESULT, the index and the values; FAILURE, the index and the failure that takes their
--- place; END; or LATER when there is none after so many seconds (nil: waits for one). Raises what
--- ends the map.
function embed.step(r, seconds)
  if r.k < r.n then return RESULT, r() end
  if seconds ~= 0 and not r.is_reading and r.job then
    r.is_reading = true
    core.job.set_reading(r.job, true)
  end
  local what, index, value = r:_advance(seconds ~= nil)
  if what == "later" and seconds > 0 then
    local deadline = core.loop.now() + seconds
    repeat
      r:_wait(r.job, math.max(0, deadline - core.loop.now()))
      what, index, value = r:_advance(true)
    until what ~= "later" or core.loop.now() >= deadline
  end
  if not what then return END end
  if what == "later" then return LATER end
  if what == "failure" then return FAILURE, index, value end
  return embed.step(r, seconds)
end

--- The failure of an input whose result C cannot have. Raises it where failures end the map.
function embed.refuse(r, index, message)
  local refused = failure.new { kind = abi.kind.CODEC, message = message, index = index, function_name = r.settings.name, attempts = 1 }
  if not r.settings.return_exceptions then error(refused, 0) end
  return refused
end

local doubles_type = ffi.typeof "double *"

local function fail_at(i, format, ...)
  error(failure.new { kind = abi.kind.USAGE, message = format:format(i, ...), index = i, attempts = 1 }, 0)
end

--- Writes all results to memory of C's: out[index - 1].
function embed.read_doubles(r, out, n)
  out = ffi.cast(doubles_type, out)
  if r.job then core.job.set_reading(r.job, false) end
  for i, y, more in r do
    if type(y) ~= "number" or more ~= nil then
      r:cancel()
      fail_at(i, "the result of input %d is not one number but %s", more ~= nil and "several values" or check.kind(y))
    elseif i > n then
      r:cancel()
      fail_at(i, "there is no room for the result of input %d: out has %d elements", n)
    end
    out[i - 1] = y
  end
end

function embed.cancel(r)
  r:cancel()
end

function embed.progress(r)
  local p = r:progress()
  return p.total or 0, p.done, p.failed, p.taken, p.retried
end

embed.close = results.Results._close

--- The job behind Results; nil after their end.
function embed.job(r)
  return r.job
end

-- ---- the loop ----

--- Does what there is to do, without waiting. Returns the seconds until it must be called again;
--- nil: only when something happens.
function embed.turn()
  loop.step()
  for _, unread in ipairs(spawned.take_unread()) do core.io.warn("tidepool: " .. show.plain(tostring(unread)) .. "\n") end
  return loop.due()
end

--- The seconds until `turn` must be called again, as it returns them.
embed.due = loop.due

return embed
