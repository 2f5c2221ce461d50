--- Gathers single calls of batched functions: one job has as many of them as a batch, and its
--- workers get them when it is full, or when the first has waited for `wait` seconds.
--
-- Whoever reads the job reads for all of its calls: outcomes are stored in the calls (call.lua) as
-- they arrive.

local abi = require "tidepool.base.abi"
local core = require "tidepool.core"
local failure = require "tidepool.failure"
local loop = require "tidepool.engine.loop"

local Gathered = {}
Gathered.__index = Gathered

local gathered = {}

local FAILURE, RETRY = abi.block.FAILURE, abi.block.RETRY

-- Function -> the Gathered that takes its next calls.
local filling = setmetatable({}, { __mode = "k" })

local function ignore() end

--- The Gathered for Function f's next call: the one that is being filled if it is of the same
--- image, or a new one with the job that open() gives.
function gathered.of(f, image, open)
  local self = filling[f]
  if self and self.image ~= image then
    self:flush()
    self = nil
  end
  if not self then
    self = setmetatable({ job = open(), f = f, image = image, n = 0, n_open = 0, calls = {} }, Gathered)
    filling[f] = self
  end
  return self
end

local function flush_late(self, seconds)
  loop.sleep(seconds)
  self:flush()
end

--- Adds the call that was just put into the job.
function Gathered:take(call)
  local batched = self.f.options.batched
  self.n, self.n_open = self.n + 1, self.n_open + 1
  self.calls[self.n] = call
  call.index = self.n
  if self.n >= batched.max then
    self:flush()
  elseif self.n == 1 then
    loop.start({ is_daemon = true, _end = ignore }, true, flush_late, self, batched.wait)
  end
end

--- Lets the workers have the calls that there are.
function Gathered:flush()
  if self.is_flushed then return end
  self.is_flushed = true
  if filling[self.f] == self then filling[self.f] = nil end
  if not self.job then return end
  core.job.push(self.job)
  core.job.finish(self.job)
  loop.notify(self.job)
end

--- Called when somebody waits: if nobody else could make further calls, the batch need not wait for
--- any.
function Gathered:hurry()
  if not self.is_flushed and loop.tasks() == 0 and not loop.is_in_task() then self:flush() end
end

--- The call has its outcome, or does not want it: the last one closes the job.
function Gathered:leave(call)
  self.calls[call.index] = nil
  self.n_open = self.n_open - 1
  if self.n_open > 0 or not self.job then return end
  local job = self.job
  self.job = nil
  if filling[self.f] == self then filling[self.f] = nil end
  self.is_flushed = true
  loop.close(job)
end

--- Gives up a job to which no call could be added.
function Gathered:drop()
  local job = self.job
  self.job, self.is_flushed = nil, true
  if filling[self.f] == self then filling[self.f] = nil end
  core.job.close(job)
end

local function give(call, ...)
  if call then call:_store(...) end
end

--- Hands outcomes that have arrived to their calls. Never waits.
function Gathered:read()
  local retries = self.f.options.retries
  while self.job do
    local job = self.job
    local kind, first, n = core.job.next(job)
    if kind == nil then
      local is_cancelled, reason, why = core.job.is_cancelled(job)
      if not is_cancelled and not core.job.is_over(job) then return end
      local kind_of_all, message = reason or abi.kind.CANCELLED, why or "the call was cancelled"
      if not is_cancelled then kind_of_all, message = abi.kind.MEMORY, abi.NO_MEMORY end
      for i = 1, self.n do
        give(self.calls[i], false, failure.new { kind = kind_of_all, message = message, function_name = self.f.name, attempts = 0 })
      end
      return
    elseif kind == FAILURE or kind == RETRY then
      local failed = failure.of_job(job, { function_name = self.f.name, max_attempts = 1 + (retries and retries.max or 0) })
      failed.index = 1 -- the index of the input in its own call
      if kind == FAILURE then
        give(self.calls[first], false, failed)
      elseif retries.on then
        local fine, why = pcall(retries.on, failed)
        if not fine then give(self.calls[first], false, why) end
      end
    else
      for k = 0, n - 1 do
        local call = self.calls[first + k]
        if call then give(call, true, core.job.item(job, k)) end
        if self.job ~= job then break end
      end
    end
  end
end

return gathered
