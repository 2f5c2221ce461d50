--- Searches the files of a project on all cores, with results as they come: an example of Tidepool
-- in Neovim.
--
-- The search is a task on the editor's own loop: the editor goes on meanwhile. Where results come
-- in, the editor's functions must not be called (see :help vim.schedule), so that those are
-- scheduled.

local tidepool = require "tidepool"

local tidegrep = {}

local app = tidepool.App "tidegrep"

-- Runs on the workers: the lines of a file that match a Lua pattern.
local search = app:func(function(path, pattern)
  local found, number = {}, 0
  local file = io.open(path, "rb")
  if not file then return found end
  for line in file:lines() do
    number = number + 1
    if line:find("\0", 1, true) then break end -- not a text
    local column = line:find(pattern)
    if column then found[#found + 1] = { filename = path, lnum = number, col = column, text = line:sub(1, 200) } end
  end
  file:close()
  return found
end)

local running -- the task of the last search

--- The files below a directory: what git knows of, or all.
local function files_of(directory)
  local paths = vim.fn.systemlist { "git", "-C", directory, "ls-files", "--cached", "--others", "--exclude-standard" }
  if vim.v.shell_error == 0 then
    for i, path in ipairs(paths) do paths[i] = directory .. "/" .. path end
    return paths
  end
  return vim.tbl_filter(function(path) return vim.fn.isdirectory(path) == 0 end, vim.fn.globpath(directory, "**/*", true, true))
end

--- Shows how far it is, where the editor shows messages.
local function show(text)
  vim.schedule(function() vim.api.nvim_echo({ { text } }, false, {}) end)
end

--- Looks for a Lua pattern in all files of a directory; the quickfix list fills as they are found.
---@param pattern string
---@param directory string?  default: the current one
---@return tidepool.Task     its value is the number of lines found
function tidegrep.grep(pattern, directory)
  if running then running:cancel() end
  local paths = files_of(vim.fn.fnamemodify(directory or ".", ":p"):gsub("/$", ""))
  vim.fn.setqflist({}, " ", { title = "tidegrep " .. pattern })
  running = tidepool.async(function()
    local count, shown = 0, tidepool.now()
    for i, found in search:map(paths, tidepool.const(pattern)) do
      count = count + #found
      if tidepool.now() - shown > 0.1 then
        shown = tidepool.now()
        show(("tidegrep: %d of %d files, %d lines"):format(i, #paths, count))
      end
      if #found > 0 then
        vim.schedule(function() vim.fn.setqflist(found, "a") end)
      end
    end
    show(("tidegrep: %d lines"):format(count))
    return count
  end)
  return running
end

return tidegrep
