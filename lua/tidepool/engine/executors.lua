--- The executors that there are (host/executors.c), and what each can do.
--
-- Nobody else names an executor: others ask for capabilities, so that adding one takes a file and a
-- line in C.

local core = require "tidepool.core"

local executors = {}

---@class tidepool.Executor
---@field name string            as users write it
---@field summary string         who runs the functions, for help texts
---@field kill boolean           it can stop any running item by force
---@field isolated boolean       it survives the crash of an item
---@field bounds_memory boolean  it can bound the memory of an item
---@field shares_memory boolean  items run in this process
---@field interleaves boolean    a worker can run several items at once, which wait as coroutines
---@field runs_lua boolean       it runs Lua functions: users may name it
---@field runs_kernels boolean   it runs kernels on devices
---@field streams boolean        it takes values that an item gives while it runs
---@field far boolean            items run on other machines, which share nothing with this one
---@field by_owner boolean       it has no workers: the caller runs its items while it waits

--- All of them, in their order.
---@type tidepool.Executor[]
local list = core.executors()
executors.list = list

--- The executor of that name.
---@return tidepool.Executor?
function executors.named(name)
  for _, one in ipairs(list) do
    if one.name == name then return one end
  end
end

--- The executors with all of these capabilities, in their order.
---@param ... string  fields of tidepool.Executor that are to be true
---@return tidepool.Executor[]
function executors.that(...)
  local found = {}
  for _, one in ipairs(list) do
    local has_all = true
    for i = 1, select("#", ...) do has_all = has_all and one[select(i, ...)] end
    if has_all then found[#found + 1] = one end
  end
  return found
end

--- The names of these executors in words: "a", "b" or "c", with the quotes that `format` gives
--- ('%q' by default).
---@return string
function executors.in_words(some, format)
  local names = {}
  for i, one in ipairs(some) do names[i] = (format or "%q"):format(one.name) end
  local last = table.remove(names)
  return #names > 0 and table.concat(names, ", ") .. " or " .. last or last
end

--- Runs functions whose options name no executor and that no device runs.
executors.default = executors.named(core.executor)

--- of_kernels runs kernels; fallback runs a function on no device in the end (gpu = { ...,
--- "threads" }).
executors.of_kernels = executors.that("runs_kernels")[1]
executors.fallback = executors.that("runs_lua")[1]

--- The option `gpu` that has devices and the fallback share each map.
executors.AUTO = "auto"

return executors
