--- In Neovim: the editor's loop drives the host, so that tasks go on while the editor does.
-- host/program/module.c loads this.
--
-- Tasks are resumed inside callbacks of vim.loop, where most of the editor's functions must not be
-- called: they use vim.schedule.

local core = require "tidepool.core"
local loop = require "tidepool.engine.loop"
local spawned = require "tidepool.engine.spawned"

local vim = vim
local uv = vim.loop

local poll, prepare, timer = uv.new_poll(core.loop.fd()), uv.new_prepare(), uv.new_timer()

--- Shows what workers have printed as messages of the editor.
local function show_printed(fd, write)
  local text = core.printed(fd)
  if text then vim.schedule(function() write(text) end) end
end

--- Shows failures that nobody has read.
local function show_unread()
  for _, failure in ipairs(spawned.take_unread()) do vim.notify("tidepool: " .. tostring(failure), vim.log.levels.ERROR) end
end

local function step()
  loop.step()
  show_printed(1, vim.api.nvim_out_write)
  show_printed(2, vim.api.nvim_err_write)
  if spawned.has_unread() then vim.schedule(show_unread) end
end

-- Before the editor's loop waits: sets a timer for when Tidepool is due.
prepare:start(function()
  local seconds, shared = loop.due(), core.loop.share()
  if shared and not (seconds and seconds < shared) then seconds = shared end
  if seconds then
    timer:start(math.min(math.ceil(seconds * 1000), 2 ^ 31), 0, step)
  else
    timer:stop()
  end
end)
poll:start("r", step)

-- These do not keep the editor's loop alive.
poll:unref()
prepare:unref()
timer:unref()

-- The editor ends without closing its Lua state.
vim.api.nvim_create_autocmd("VimLeavePre", {
  callback = function()
    for _, handle in ipairs { poll, prepare, timer } do handle:close() end
    core.close_host(1000)
  end,
})

return true
