--- The module luv on the host's loop: its handles go on while the script waits, its callbacks run
-- as tasks of ours, and what runs the loop takes turns of loop.lua.

local check = require "tidepool.base.check"
local core = require "tidepool.core"
local ffi = require "ffi"
local loop = require "tidepool.engine.loop"

local shared = {}

local is_worker = core.is_worker

-- whether the script has called uv.run itself; whether it has called uv.stop since
local runs_luv, stops_luv = false, false

--- Does luv have anything active, as uv.run would find it? Not asked of a script that has run the
--- loop itself: it was told when that was over.
local function has_handles()
  return not runs_luv and not stops_luv and core.loop.is_alive()
end

--- A script's end has seen to luv's handles: what uv.stop has said is over.
function shared.end_stop()
  stops_luv = false
end

--- Called with the module luv when it has been opened on the host's loop.
function shared.open(luv)
  loop.set_luv(has_handles)
  local walk = luv.walk
  -- When the state is closed, finalizers of cdata run before those of userdata. luv's own finalizer
  -- would free handles that are still closing.
  local closer = ffi.gc(ffi.new "char[1]", function()
    core.luv.set_callback(function(fn, handle) fn(handle) end)
    core.luv.apart(walk, function(handle)
      if not handle:is_closing() then handle:close() end
    end)
    core.luv.set_callback(nil)
    core.luv.run_out()
  end)
  core.luv.set_callback(loop.call_back, closer)

  --- As luv's: fn(handle) for each handle of this state, even if several states have luv on one
  --- loop.
  function luv.walk(fn)
    local handles = {}
    core.luv.set_callback(function(_, handle) handles[#handles + 1] = handle end, closer)
    local fine, why = pcall(core.luv.apart, walk, fn)
    core.luv.set_callback(loop.call_back, closer)
    if not fine then error(why, 2) end
    for _, handle in ipairs(handles) do loop.call_back(fn, handle) end
  end

  luv.loop_alive = core.loop.is_alive

  --- As luv's: "default" until no handle and no task is left, "once", "nowait".
  local run_loop = luv.run
  function luv.run(mode)
    -- an item that does not wait beside others runs the loop itself
    if is_worker and not loop.current() and loop.items() == 0 then return run_loop(mode) end
    if mode ~= nil and mode ~= "default" and mode ~= "once" and mode ~= "nowait" then
      check.fail('uv.run: expected "default", "once" or "nowait", got %s', check.show(mode))
    elseif loop.is_inside() then
      check.fail("uv.run: the loop runs already; in a task or a callback there is no need to run it")
    end
    runs_luv, stops_luv = true, false
    local go_round = is_worker and loop.turn_items or loop.turn
    if mode == "nowait" or mode == "once" then
      go_round(mode == "nowait" and 0 or nil)
    else
      while not stops_luv and (core.loop.is_alive() or loop.tasks() > 0) do
        if go_round() then break end
      end
    end
    return core.loop.is_alive()
  end

  local stop_loop = luv.stop
  function luv.stop()
    stops_luv = true
    if is_worker then stop_loop() end
  end
end

return shared
