--- What a worker's state has besides: print through the host, no os.exit, quiet finalizers; and what vm.c calls here.

local core = require "tidepool.core"

local worker = {}

-- The library proper is loaded when an item needs it: an idle worker stays small.
local function lazy(name)
  return function(...) return require "tidepool.describe"[name](...) end
end
local message_of, traceback_of = lazy "message", lazy "traceback"

print = core.print

--- os.exit is an error of the input that calls it: the host lives on.
function os.exit(code)
  local shown = code == nil and "" or tostring(code)
  error(("os.exit(%s) called in a worker"):format(shown), 2)
end

-- Stock LuaJIT throws a finalizer's error out of whatever code happens to run the collector (newproxy), or swallows it (ffi.gc).
-- Here it is one line on stderr per worker.
local has_warned = false
local function guard(finalizer)
  if type(finalizer) ~= "function" then return finalizer end
  return function(object)
    local fine, why = pcall(finalizer, object)
    if not fine and not has_warned then
      has_warned = true
      local _, _, _, index = core.current()
      core.warn(("tidepool: worker %d: error in a finalizer: %s\n"):format(index or 0, tostring(why)))
    end
  end
end

local new_proxy = newproxy
local watch_gc = {
  __newindex = function(meta, key, value) rawset(meta, key, key == "__gc" and guard(value) or value) end,
}
function newproxy(meta) -- luacheck: globals newproxy
  local proxy = new_proxy(meta)
  if meta == true then setmetatable(getmetatable(proxy), watch_gc) end
  return proxy
end

local ffi = require "ffi"
local ffi_gc = ffi.gc
function ffi.gc(object, finalizer) return ffi_gc(object, guard(finalizer)) end

--- (kind, error, attempt, worker) -> kind, message, value, traceback, attempts, worker: what a failure block says. The error is
--- { value, traceback } when the function raised it, a text when the host did.
function worker.describe(kind, raised, attempt, index)
  if type(raised) ~= "table" then return kind, tostring(raised), nil, nil, attempt, index end
  local value, traceback = raised[1], raised[2]
  return kind, message_of(value), value, traceback and traceback_of(traceback), attempt, index
end

-- The loop that runs a slice of numbers. One per function and number of columns, made from text, so that LuaJIT compiles each
-- for itself. ctl[cursor] tells which item runs; `cursor` is always 0, but unknown to the compiler, which then must assume that the
-- store may change ctl[1] and reads that flag anew for each item instead of once (LuaJIT ignores volatile).
local driver = [[
local $NAME, select, type, ctl_type, numbers_type, cast = ...
local held
local function keep(out, i, ...)
  if select("#", ...) == 1 then
    local r = ...
    if type(r) == "number" then out[i] = r return true end
  end
  held = { n = select("#", ...), ... }
  return false
end
local function loop(ctl, cursor, xs, stride, out, from, to)
  for i = from, to - 1 do
    if ctl[1] ~= 0 then return i end
    ctl[cursor] = i
    $RUN
  end
  return to
end
return function(ctl, xs, stride, out, from, to)
  held = nil
  local base = cast(numbers_type, out)
  local next = loop(cast(ctl_type, ctl), 0, cast(numbers_type, xs), stride, $BASE, from, to)
  return next, held
end
]]

local used_by_driver = {}
for word in driver:gmatch "[%a_]+" do used_by_driver[word] = true end

--- (function, its name, columns, discard) -> driver(ctl, numbers, stride, out, from, to) -> the next item, and the results of that item if they were
--- not one number.
function worker.make_driver(fn, name, columns, discard)
  -- Tracebacks call a function by the variable that it is called through.
  if not name:find "^[%a_][%w_]*$" or used_by_driver[name] or not loadstring("local " .. name) then name = "mapped" end
  local arguments = {}
  for c = 1, columns do
    arguments[c] = c == 1 and "xs[i]" or ("xs[%d * stride + i]"):format(c - 1)
  end
  local call = name .. "(" .. table.concat(arguments, ", ") .. ")"
  local text = driver:gsub("%$(%u+)", {
    NAME = name,
    RUN = discard and call or ("if not keep(out, i, %s) then return i end"):format(call),
    BASE = discard and "base" or "base - from",
  })
  local chunk = assert(loadstring(text, "=tidepool/driver"))
  return chunk(fn, select, type, ffi.typeof "int32_t *", ffi.typeof "double *", ffi.cast)
end

return worker
