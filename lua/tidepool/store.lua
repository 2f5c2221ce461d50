--- What the script and all workers share: tidepool.Dict and tidepool.Queue.
--
-- Both are userdata of tidepool.core, and travel by reference; their metatables look up methods
-- here. Values are copied in and out by the codec; typed arrays, Dicts and Queues among them stay
-- the same objects.

local abi = require "tidepool.base.abi"
local check = require "tidepool.base.check"
local core = require "tidepool.core"
local failure = require "tidepool.failure"
local loop = require "tidepool.engine.loop"
local poll = require "tidepool.engine.poll"

local store = {}

--- A dictionary that the script and all workers share. Keys are strings, numbers and booleans.
---@class tidepool.Dict
local dict = {}

--- A queue of values that the script and all workers share: each comes out once, the first one
-- first.
---@class tidepool.Queue
local queue = {}

-- What others call them.
local aliases = { set = "put", push = "put", add = "put", pop = "get", pull = "get", take = "get" }

local function methods_of(what, methods)
  setmetatable(methods, { __index = function(_, name)
    local names = {}
    for each in pairs(methods) do names[#names + 1] = each end
    table.sort(names)
    local near = aliases[name] and rawget(methods, aliases[name]) and aliases[name] or type(name) == "string" and check.nearest(name, names)
    check.fail("a %s has no method '%s' (%s)", what, tostring(name), near and ("did you mean '%s'?"):format(near) or "it has "
      .. table.concat(names, ", "))
  end })
  return function(_, name) return methods[name] end
end

-- Until core.store.install is called, methods of Dicts and Queues are looked up by these
-- (core_store.c).
store.dict_index, store.queue_index = methods_of("Dict", dict), methods_of("Queue", queue)
store.Dict, store.Queue = core.store.install(dict, queue) -- the metatables that they are known by

function store.newindex(self, key)
  if tostring(self):find "Dict" then
    check.fail("a Dict has no fields: write dict:put(%s, value)", type(key) == "string" and ("%q"):format(key) or check.show(key))
  end
  check.fail "a Queue has no fields: write queue:put(value)"
end

function store.dict_tostring(self)
  return ("tidepool.Dict: %d entries"):format(#self)
end

function store.queue_tostring(self)
  return ("tidepool.Queue: %d values%s"):format(#self, core.store.is_closed(self) and ", closed" or "")
end

local function check_key(who, key)
  local kind = type(key)
  if (kind == "string" or kind == "boolean" or kind == "number") and key == key then return end
  check.fail("%s: a key is a string, a number or a boolean, got %s", who, key ~= key and "nan" or check.kind(key))
end

local function check_value(who, value)
  if value == nil then check.fail("%s: expected a value, got nil", who) end
end

local function check_seconds(who, seconds)
  if seconds ~= nil and not (type(seconds) == "number" and seconds >= 0) then
    check.fail("%s: the timeout must be a number of seconds, 0 or more, got %s", who, check.show(seconds))
  end
end

--- Makes one: see tidepool.Dict.
---@return tidepool.Dict
function store.new_dict(entries, extra)
  check.no_more(extra, "tidepool.Dict", "a table of entries")
  if entries ~= nil and type(entries) ~= "table" then check.fail("tidepool.Dict: expected a table of entries, got %s", check.kind(entries)) end
  local self, why = core.store.dict()
  if not self then check.fail("tidepool.Dict: %s", why) end
  for key, value in pairs(entries or {}) do self:put(key, value) end
  return self
end

--- Makes one: see tidepool.Queue.
---@return tidepool.Queue
function store.new_queue(given, extra)
  check.no_more(extra, "tidepool.Queue", "options")
  if given ~= nil and type(given) ~= "table" then check.fail("tidepool.Queue: expected options, as { capacity = 10 }, got %s", check.show(given)) end
  local capacity = 0
  for key, value in pairs(given or {}) do
    if key ~= "capacity" then check.fail("tidepool.Queue: unknown option %s; there is: capacity", check.key(key)) end
    if type(value) ~= "number" or value < 1 or value % 1 ~= 0 or value == math.huge then
      check.fail("tidepool.Queue: option 'capacity' must be an integer of at least 1, got %s", check.show(value))
    end
    capacity = value
  end
  local self, why = core.store.queue(capacity)
  if not self then check.fail("tidepool.Queue: %s", why) end
  return self
end

-- ---- dictionaries ----

--- The value of a key, a copy; `otherwise` (nil) where there is none.
---@param key string|number|boolean
---@param otherwise any
---@return any
function dict:get(key, otherwise)
  check_key("dict:get", key)
  local version, value = core.store.get(self, key)
  if version == 0 then return otherwise end
  if not version then check.fail("dict:get: %s", value) end
  return value
end

local function put(who, self, key, value, version)
  local is_put, why = core.store.put(self, key, value, version)
  if is_put == nil then check.fail("%s: %s", who, why) end
  return is_put
end

--- Sets a key's value, to a copy of it as it is now. With { if_absent = true } only where the key
-- has none. Gives whether it was put.
---@param key string|number|boolean
---@param value any
---@param given { if_absent: boolean? }?
---@return boolean
function dict:put(key, value, given)
  check_key("dict:put", key)
  check_value("dict:put", value)
  if given ~= nil and type(given) ~= "table" then check.fail("dict:put: expected options, as { if_absent = true }, got %s", check.show(given)) end
  for name in pairs(given or {}) do
    if name ~= "if_absent" then check.fail("dict:put: unknown option %s; there is: if_absent", check.key(name)) end
  end
  return put("dict:put", self, key, value, given and given.if_absent and 0 or nil)
end

--- Adds to a key's number, which is 0 where there is none, in one step. Gives the sum.
---@param key string|number|boolean
---@param n number?  1
---@return number
function dict:add(key, n)
  check_key("dict:add", key)
  if n ~= nil and type(n) ~= "number" then check.fail("dict:add: expected a number, got %s", check.show(n)) end
  local sum, why = core.store.add(self, key, n or 1)
  if not sum then check.fail("dict:add: key %s: %s", check.key(key), why) end
  return sum
end

--- Sets a key's value to fn(value, ...), as one step: if somebody else has changed the value
--- meanwhile, fn is called again. When fn gives nil the key is removed. Returns the new value.
---@param key string|number|boolean
---@param fn fun(value: any, ...): any  gets nil where there is none
---@param ... any  further arguments of fn
---@return any
function dict:update(key, fn, ...)
  local n, arguments = select("#", ...), { ... }
  check_key("dict:update", key)
  if type(fn) ~= "function" then check.fail("dict:update: expected a function, got %s", check.kind(fn)) end
  fn = check.called(fn, "the function of dict:update")
  while true do
    local version, value = core.store.get(self, key)
    if not version then check.fail("dict:update: %s", value) end
    local new = fn(value, unpack(arguments, 1, n))
    if new ~= nil then
      if put("dict:update", self, key, new, version) then return new end
    elseif version == 0 or core.store.pop(self, key, version) then
      return nil
    end
  end
end

--- Removes a key and returns its value; nil when it had none.
---@param key string|number|boolean
---@return any
function dict:pop(key)
  check_key("dict:pop", key)
  local is_taken, value = core.store.pop(self, key)
  if is_taken == nil then check.fail("dict:pop: %s", value) end
  return value
end

--- All entries as they are now, as a table of its own.
---@return table
function dict:table()
  local list, n = core.store.list(self)
  if not list then check.fail("dict:table: %s", n) end
  local entries = {}
  for i = 1, n do entries[list[2 * i - 1]] = list[2 * i] end
  return entries
end

--- Goes over all entries as they are now: for key, value in dict:pairs() do.
---@return function, table
function dict:pairs()
  return next, dict.table(self)
end

-- ---- queues ----

local function is_stuck()
  return core.store.is_stuck()
end

--- Calls move(seconds) until it succeeds or fails. In a worker `move` itself waits; elsewhere the
--- loop goes on in between.
local function await(who, move, seconds)
  check_seconds(who, seconds)
  if core.is_worker and not loop.is_in_task() then
    local how, value = move(seconds)
    if how == "stuck" then check.fail("%s: this would wait for ever: all that could change the queue waits, too", who) end
    if not how then check.fail("%s: %s", who, value) end
    return how, value
  end
  local deadline = seconds and core.loop.now() + seconds
  local how, value = move(0)
  if how == "not yet" and seconds ~= 0 then
    poll(function()
      how, value = move(0)
      return how ~= "not yet"
    end, deadline, is_stuck)
  end
  if not how then check.fail("%s: %s", who, value) end
  return how, value
end

--- Puts in a copy of the value as it is now; waits while the queue has `capacity` values. Returns
--- true, or false when there was no room in time. Raises if the queue is closed.
---@param value any
---@param seconds number?  how long to wait at most
---@return boolean
function queue:put(value, seconds)
  check_value("queue:put", value)
  local how = await("queue:put", function(for_s) return core.store.push(self, value, for_s) end, seconds)
  if how == "closed" then check.fail "queue:put: the queue is closed" end
  return how == "moved"
end

--- Takes the first value; waits while there is none. Returns nil when there is none and the queue
--- is closed; raises a failure of kind "timeout" when none came in time.
---@param seconds number?  how long to wait at most
---@return any
function queue:get(seconds)
  local how, value = await("queue:get", function(for_s) return core.store.take(self, for_s) end, seconds)
  if how == "not yet" then
    local message = ("%squeue:get: nothing came within %g s"):format(check.where(), seconds)
    error(failure.new { kind = abi.kind.TIMEOUT, message = message, attempts = 0 }, 0)
  end
  return value
end

--- Closes the queue: nothing more can be put in. Values in it can still be taken; after that get
--- returns nil, also to those that wait.
function queue:close()
  core.store.close(self)
end

--- Is the queue closed? There may still be values in it.
---@return boolean
function queue:is_closed()
  return core.store.is_closed(self)
end

--- Takes values until the queue is closed: for value in queue:each() do.
---@return fun(): any
function queue:each()
  return function() return queue.get(self) end
end

return store
