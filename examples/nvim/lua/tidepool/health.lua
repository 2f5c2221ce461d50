--- :checkhealth tidepool  says whether Tidepool works in this editor. Copy it into your plugin, or
-- leave it out: nothing else needs it.

local health = vim.health or require "health"
-- Neovim 0.10 has other names for them than 0.7
local start, ok = health.start or health.report_start, health.ok or health.report_ok
local warn, fail = health.warn or health.report_warn, health.error or health.report_error

local M = {}

function M.check()
  start "Tidepool"
  local found, tidepool = pcall(require, "tidepool")
  if not found then
    return fail("the module is not found: " .. tostring(tidepool):match "[^\n]*", { "make install, or set LUA_CPATH", ":lua print(package.cpath)" })
  end
  ok(("version %s, %s, %d worker threads"):format(tidepool._VERSION, jit.version, tidepool.workers()))
  local app = tidepool.App "health"
  local function try(what, options, advice)
    local fine, result = pcall(function() return app:func(options)(function(x) return x * x end):map({ 1, 2, 3 }):sum() end)
    if fine and result == 14 then ok(what .. " run functions") else warn(what .. ": " .. tostring(result):match "[^\n]*", advice) end
  end
  try("threads", { executor = "threads" })
  try("worker processes", { executor = "processes" }, { "TIDEPOOL_WORKER names the program `tidepool`, of the same build" })
  local devices = tidepool.devices()
  if devices[1] then
    ok("device: " .. devices[1].name)
  else
    warn("no OpenCL device, for functions with gpu", { "apt install pocl-opencl-icd ocl-icd-libopencl1" })
  end
end

return M
