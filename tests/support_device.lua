--- Specs that need an OpenCL device: where there is none they are pending.
--
-- busted gives `it` and `pending` to spec files only, so these pass them on.

local assert = require "luassert"
local shell = require "tests.cli.shell"
local support = require "tests.support"
local tidepool = require "tidepool"

local devices = { list = tidepool.devices(), has_pocl = false }

for _, d in ipairs(devices.list) do devices.has_pocl = devices.has_pocl or d.platform == "Portable Computing Language" end

--- A function like `it` for specs that run if there is what they need.
---@param is_there any  true, or what `it` needs
---@param why string  what is not there
function devices.specs(it, pending, is_there, why)
  return function(says, check)
    if is_there then it(says, check) else pending(("%s (%s)"):format(says, why)) end
  end
end

--- The same for specs that need any device.
function devices.on_device(it, pending)
  return devices.specs(it, pending, #devices.list > 0, "no OpenCL device")
end

--- The same for specs that need a device of PoCL.
function devices.on_pocl(it, pending)
  return devices.specs(it, pending, devices.has_pocl, "no OpenCL device of PoCL")
end

local faults

--- The path of an OpenCL that counts, and fails as it is told: tests/opencl/faults.c.
function devices.faults()
  if not faults then
    faults = support.temp_dir() .. "/libfaults.so"
    assert(os.execute(("cc -shared -fPIC -D_GNU_SOURCE -o %s tests/opencl/faults.c -Wl,--no-as-needed -l:libOpenCL.so.1 -ldl"):format(faults)) == 0)
  end
  return faults
end

--- A function for specs that run a script on a device of PoCL that is a card with memory of its own
--- (FAULTS_COPIES of tests/opencl/faults.c): on_card(says, output, script, environment).
---@param prelude string  what each script begins with
function devices.on_card(it, pending, prelude)
  local on_pocl = devices.on_pocl(it, pending)
  return function(says, output, script, environment)
    on_pocl(says, function()
      local command = ("FAULTS_COPIES=1 %s TIDEPOOL_OPENCL=%s $T job.lua"):format(environment or "", devices.faults())
      local done = shell.run(command, { ["job.lua"] = prelude .. script })
      assert.same({ stderr = "", stdout = output }, { stderr = done.stderr, stdout = done.stdout })
    end)
  end
end

return devices
