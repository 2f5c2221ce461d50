--- Each input of a map runs once on a device, also when something fails there, and maps end at any
--- moment (not stock: the same code runs there).

local devices = require "tests.support_device"

local PRELUDE = [[
local ffi, tidepool = require "ffi", require "tidepool"
ffi.cdef "void faults_fail(int n); void faults_fail_move(int way, int n); double faults_moved(int way);"
ffi.cdef "void faults_fail_flush(int n);"
local faults = ffi.load(os.getenv "TIDEPOOL_OPENCL")
local app = tidepool.App("once", { gpu = "cpu" })
local n = 100000
local xs, counts = tidepool.array("double", n), tidepool.array("double", 10)
for i = 1, n do xs[i] = i end
local f = app:func { name = "f" } (function(i)
  local k = i % 10 + 1
  counts[k] = counts[k] + 1
  return i
end)
]]

local on_card = devices.on_card(it, pending, PRELUDE)

describe("A map that writes to arrays on a device", function()
  on_card("can be cancelled before anything has run", "right\n", [[
    for _ = 1, 20 do
      f:map(xs):cancel()
      while tidepool.devices()[1].is_stuck do tidepool.sleep(0.01) end -- it has not come back yet
    end
    print "right"
  ]])

  -- Copies to the host: of results, in pieces, and of what was written, in any order. One of the
  -- latter that has failed is tried again when the map ends, and only then missed.
  on_card("writes once for each input when a copy to the host fails", "right\n", [[
    f:map(xs):list()
    local failed = 0
    for which = 1, 3 do
      for k = 1, 10 do counts[k] = 0 end
      faults.faults_fail_move(1, which)
      local is_whole, results = pcall(function() return f:map(xs, { return_exceptions = true }):list() end)
      if not is_whole then
        failed = failed + 1
        assert(results.kind == "device" and results.message:find("copying from the device failed", 1, true), tostring(results))
      else
        for i = 1, n do
          if results[i] ~= i then failed = failed + 1 end
        end
      end
      for k = 1, 10 do
        assert(counts[k] == n / 10 or not is_whole and counts[k] < n / 10, ("%d: %g of %g"):format(which, counts[k], n / 10))
      end
    end
    assert(failed > 0, "nothing has failed")
    print "right"
  ]])

  -- The reader has taken one result, so the next inputs wait, and nothing runs.
  local ENDED = [[
    f:map({ 1 }):list()
    for _, how in ipairs { "cancelled", "dropped" } do
      for k = 1, 10 do counts[k] = 0 end
      local results = f:map(xs, { window = 100 })
      results:next()
      local progress
      repeat progress = results:progress() tidepool.sleep(0.01) until progress.running == 0
      if how == "cancelled" then results:cancel() end
      results = nil
      collectgarbage() collectgarbage()
      local sum = 0
      for k = 1, 10 do sum, counts[k] = sum + counts[k], 0 end
      assert(sum == progress.done, ("%s: %g of %g"):format(how, sum, progress.done))
      f:map({ 1 }):list()
      assert(counts[2] == 1, ("%s: what the script has written is lost, %g"):format(how, counts[2]))
    end
    print "right"
  ]]
  on_card("gives what it has written when it is cancelled, or forgotten, while nothing runs", "right\n", ENDED)

  on_card("runs again what a launch that did not begin has left", "right\n", [[
    f:map(xs):list()
    for k = 1, 10 do counts[k] = 0 end
    faults.faults_fail(1)
    local results = f:map(xs):list()
    for i = 1, n do assert(results[i] == i) end
    for k = 1, 10 do assert(counts[k] == n / 10) end
    print "right"
  ]])
end)

describe("A kernel by hand", function()
  on_card("runs once when the device fails after it was started", "right\n", [[
    local device = tidepool.gpu.device()
    local b = device:buffer("double", { 1 })
    -- never compiled before: the program is stored once the first launch has ended
    local add = device:kernel(("__kernel void add(__global double *a) { a[0] += 1; } // %.17g"):format(tidepool.now()))
    for round, fail in ipairs { "faults_fail_flush", "faults_fail" } do
      faults[fail](1)
      local fine, why = pcall(function() add(1, b) return b:read()[1] end)
      -- one that was not started is tried again
      assert(fine == (round == 2) and (fine or tostring(why):find("failed: CL_OUT_OF_RESOURCES", 1, true)), tostring(why))
      assert(b:read()[1] == round + 1, ("%s: %g"):format(fail, b:read()[1]))
    end
    print "right"
  ]])
end)

describe("The message of an input that has failed on a device", function()
  on_card("has its numbers when the results stay there", "right\n", [[
    local other = app:func { returns = "double", name = "other" } (function(i) return 7 * i end)
    local fails = app:func { returns = "double", name = "fails" } (function(i)
      if i % 1013 == 5 then error(("%d and %g"):format(i, i / 2)) end
      return i
    end)
    other:map(xs):list() -- whose memory the next results get
    collectgarbage() collectgarbage()
    local results = fails:map(xs, { return_exceptions = true })
    repeat tidepool.sleep(0.01) until results:progress().running == 0
    local moved = faults.faults_moved(1) -- with those numbers: it comes once
    results = results:list()
    assert(faults.faults_moved(1) == moved, faults.faults_moved(1) - moved)
    for i = 5, n, 1013 do
      local text = ("%d and %g"):format(i, i / 2)
      assert(results[i].message:find(text, 1, true), results[i].message .. " in the place of " .. text)
    end
    print "right"
  ]])
end)
