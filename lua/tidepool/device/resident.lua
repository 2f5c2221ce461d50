--- Inputs of maps that are on a device already: buffers, and the results of another map.
--
-- For the engine either is a typed array whose elements only a device has; they are copied into the
-- array when somebody else wants them (gpu/opencl/copies.h).

local abi = require "tidepool.base.abi"
local array = require "tidepool.array"
local check = require "tidepool.base.check"
local core = require "tidepool.core"
local failure = require "tidepool.failure"
local fused = require "tidepool.device.fused"
local gpu = require "tidepool.device.gpu"
local inputs = require "tidepool.engine.inputs"
local indexed = require "tidepool.engine.inputs.indexed"
local jobs = require "tidepool.engine.jobs"
local results = require "tidepool.results"
local stepped = require "tidepool.engine.inputs.stepped"

local resident = {}

local function is_buffer(value)
  local device = package.loaded["tidepool.device.device"]
  return device ~= nil and getmetatable(value) == device.Buffer
end

--- The source of arrays whose elements are on a device. If the map's inputs have to be read here
--- (source.comes_home, set by whoever starts it), they are brought home before.
local function source_of(arrays, n)
  local source = indexed.borrow(arrays, n)
  local fill = source.fill
  source.fill = function(self, job, room)
    for _, a in ipairs(self.comes_home and arrays or {}) do
      local fine, why = core.buffer.bring_home(a.memory)
      if not fine then error(failure.new { kind = abi.kind.DEVICE, message = why }, 0) end
    end
    return fill(self, job, room)
  end
  return source
end

-- ---- buffers ----

local function refuse_buffer(who, f, c, buffer, why)
  check.fail("%s: input %d is a buffer of %s, and %s %s; buffer:read() gives an array", who, c, buffer.device.name, f.name, why)
end

local function of_buffers(who, f, given, n)
  local first, arrays, shortest = nil, {}, math.huge
  if n > abi.COLUMNS_MAX then check.fail("%s: %d inputs, of which some are buffers: at most %d are possible", who, n, abi.COLUMNS_MAX) end
  for c = 1, n do
    local value = given[c]
    if is_buffer(value) then
      if not gpu.runs_all(f) then
        local may = f.options.gpu and not f.options.executor
        refuse_buffer(who, f, c, value, may and 'may run elsewhere (its gpu ends with "threads")'
          or jobs.is_far(f) and "runs on devices of other machines" or "does not run on devices")
      end
      first = first or value
      local is_there = false
      for _, d in ipairs(gpu.match(f.options.gpu, f.name)) do is_there = is_there or d.number == value.device.number end
      if not is_there then refuse_buffer(who, f, c, value, "runs on others") end
      if value.device ~= first.device then
        check.fail("%s: input %d is a buffer of %s, and another input one of %s", who, c, value.device.name, first.device.name)
      end
    elseif not array.type_of(value) then
      check.fail("%s: input %d is %s: beside a buffer there can be typed arrays and other buffers", who, c,
        check.kind(value))
    end
    shortest = math.min(shortest, value.length)
  end
  for c = 1, n do arrays[c] = is_buffer(given[c]) and given[c]:_as_input(who) or given[c] end
  local source = source_of(arrays, shortest)
  source.device = first.device
  return source
end

-- ---- results ----

--- Reads all results of a map, which stay where they are.
local function read_through(own)
  repeat
    local what = own:_advance()
    own.k = own.n
  until not what
end

--- The source of a map over the results of another one, which waits for its end. Of one that fails
--- the inputs are the results before the failure, and then it.
local function of_results(own)
  core.job.stay(own.job)
  local source, rest, failed
  local function fill(self, job, room)
    -- starting the map does not wait for the other one; reading its results does
    if (self.is_polled or not self.is_asked) and not own:done() then
      self.is_asked = true
      return false, nil, true
    end
    if not rest then
      local n = own.total
      local fine, why = xpcall(read_through, function(raised)
        n = failure.is_failure(raised) and raised.index and raised.index - 1 or 0
        return stepped.trouble(raised)
      end, own)
      failed = not fine and why or nil
      rest = source_of(own.settings.arrays, n)
      rest.comes_home = self.comes_home
    end
    local done = rest:fill(job, room)
    return done, done and failed or nil
  end
  source = { total = own.total, types = own.settings.returns, window = math.huge, is_cheap = false, has_waited = false, flush = function() end,
    fill = fill, results = own }
  return source
end

--- May the results of that map, which has just been started, be read by another one where they are?
local function can_stay(own)
  local settings = own and own.settings
  return own and own.job and settings.stays and not settings.return_exceptions and not settings.on_error and not settings.halt and own.k == own.n
    and core.job.counts(own.job).delivered == 0
end

--- The source of f:map(...) if one of its inputs is on a device; nil: none is, or it is read like
--- any other.
---@param who string
---@param f tidepool.Function
---@param given table  the inputs
---@param n integer    how many
---@param is_plain boolean  f:map has no options
---@return table?
function resident.source(who, f, given, n, is_plain)
  for c = 1, n do
    if is_buffer(given[c]) then return of_buffers(who, f, given, n) end
  end
  local own = n == 1 and results.of(given[1])
  if not (own and gpu.runs_all(f) and not f.options.kernel and can_stay(own)) then return nil end
  results.check_unread(who .. ": input 1", given[1])
  local together = is_plain and own.origin and fused.open(f, own) or nil
  if not together then return of_results(own) end
  -- the inputs of the map that was given, and what starts it again if it is asked for results
  local origin = own.origin
  own:_close()
  own.restart = function() return require("tidepool.engine.maps").over(origin.fn, "Function:map", "of_calls", origin.given) end
  local source = resident.source(who, origin.fn, origin.given, origin.given.n) or inputs.map(who, origin.given, origin.given.n)
  source.fused, source.given, source.over = together, origin.given, own
  return source
end

return resident
