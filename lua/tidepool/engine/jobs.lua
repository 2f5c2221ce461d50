--- Jobs of functions: what a call, a batch or a map opens, and the images that workers load.

local check = require "tidepool.base.check"
local core = require "tidepool.core"
local executors = require "tidepool.engine.executors"
local failure = require "tidepool.failure"
local lazy = require "tidepool.base.lazy"

-- most scripts give no options
local cache, options = lazy "tidepool.engine.cache", lazy "tidepool.options"
local own_modules, share = lazy "tidepool.engine.own_modules", lazy "tidepool.share"

local CRASH_RETRIES = 1 -- when the option is not given
local LARGE = 2 ^ 20 -- bytes from which on it is checked whether a value is encoded again and again

local jobs = {}

-- The executor of each Function where Lua runs it, once it was asked for: options do not change.
local lua_executors = setmetatable({}, { __mode = "k" })

-- The last image of each Function, so that an unchanged function is not sent again.
local images = setmetatable({}, { __mode = "k" })

--- Does the function drive its devices by hand? With `gpu` alone it is translated and runs on
--- devices, and so it does with an executor on other machines, on theirs. With another executor it
--- runs there, and tidepool.gpu.device() gives it its devices.
function jobs.drives(f)
  return f.options.gpu ~= nil and options.drives(f.options)
end

--- Is it left to us whether threads or devices run the function?
function jobs.is_auto(self)
  return self.options.gpu == executors.AUTO and not self.options.executor
end

--- Do devices of other machines run the function? Inside of an item they are those of the machine
--- that runs it.
function jobs.is_far(self)
  return self.options.gpu ~= nil and not core.is_worker and options.is_on_far_devices(self.options)
end

--- The kernel that runs the function on devices, or `only` on that one, if it asks for some; see
--- gpu.kernel. For those of other machines an image, and a unit that is_far: see gpu.plan.
function jobs.kernel(self, types, inputs_of, shape, only)
  local spec = self.options.gpu
  if not spec or jobs.drives(self) or (spec == executors.AUTO and not only) then return nil end
  if not only and jobs.is_far(self) then return require("tidepool.device.gpu").plan(self, types, inputs_of) end
  return require("tidepool.device.gpu").kernel(self, types, inputs_of, shape, only)
end

--- The numbers of the devices that the function drives by hand; nil when it does not.
local function leased_to(self)
  if not jobs.drives(self) then return nil end
  local numbers = {}
  for i, d in ipairs(require("tidepool.device.gpu").match(self.options.gpu, self.name) or {}) do numbers[i] = d.number end
  return numbers
end

--- The executor that runs the function where no device does.
function jobs.executor(self)
  local executor = lua_executors[self]
  if not executor then
    executor = next(self.options) == nil and executors.default or options.executor(self.options, true)
    lua_executors[self] = executor
  end
  return executor
end

--- Do its items run in a process of their own where an item of a process maps it? Otherwise that
--- runs them itself, and nothing could end one of them alone (host/workers/apart.c).
function jobs.is_apart(self, executor)
  local given = self.options
  return executor.shares_memory and executor.isolated and (given.timeout or given.memory or given.crash_retries or given.recycle) and true or false
end

--- What workers of that executor load of the function as it is now: its image, and the tables that
--- it captures.
function jobs.encode(self, executor)
  if executor.far then own_modules.collect(self.raw, self.setups) elseif not executor.shares_memory then core.array.share() end
  local image, captured, is_known = core.func.image(self.raw, package.path, package.cpath, self.setups and self.setups[1] and self.setups, self.name,
    images[self], self.core, not executor.shares_memory or jobs.is_apart(self, executor), executor.far)
  if not image then
    error(failure.new { kind = is_known, message = check.placed(captured), function_name = self.name, attempts = 0 }, 0)
  end
  images[self] = image
  if not is_known and not core.is_worker and core.value.bytes(image) >= LARGE then share.note_image(self, image) end
  return image, captured
end

--- The last image of the function that was made for workers.
function jobs.image(self) return images[self] end

--- The function's part of its cache, from cache.open; nil when it has none. Maps inside mapped
--- functions have none.
function jobs.cache(self)
  return self.options.cache and not core.in_item and cache.open(self) or nil
end

--- Refuses a call that would not read what the function yields, where its options say that it does.
function jobs.check_yields(self)
  if not self.options.yields then return end
  check.fail("%s yields its values (option 'yields'): f:stream(...) reads those of one call, f:flat_map(xs) those of many", self.name)
end

--- Opens a job of the function. `more` are options for core.job.open.
function jobs.open(self, more, kernel, unit, image)
  more.retries = self.options.retries
  if unit and unit.is_far then kernel, image, more.devices = nil, kernel, unit.devices end
  local job, why, kind
  local executor, batched, concurrent = jobs.executor(self), self.options.batched, self.options.concurrent_inputs
  if not image and (not kernel or unit.may_fall_back) then image, more.captured = jobs.encode(self, executor) end
  if kernel then
    more.fallback = image
    job, why, kind = core.job.open(self.core, kernel, executors.of_kernels.name, more)
  else
    more.leased = leased_to(self)
    more.timeout, more.crash_retries = self.options.timeout, self.options.crash_retries or CRASH_RETRIES
    more.recycle, more.memory, more.apart = self.options.recycle, self.options.memory, jobs.is_apart(self, executor)
    more.concurrent = concurrent and concurrent > 1 and concurrent or nil
    if batched then more.batch, more.splits = batched.max, batched.split ~= false end
    job, why, kind = core.job.open(self.core, image, executor.name, more)
  end
  if not job then
    error(failure.new { kind = kind, message = check.placed(self.name .. ": " .. why), function_name = self.name, attempts = 0 }, 0)
  end
  return job
end

return jobs
