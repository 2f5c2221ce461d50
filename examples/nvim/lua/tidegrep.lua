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

-- Runs on a worker, since it may take long: the files below a directory, what git knows of, or all.
local files_of = app:func(function(directory)
  local git = "git -c core.quotepath=off ls-files --cached --others --exclude-standard 2>/dev/null"
  local paths = {}
  local pipe = assert(io.popen(("cd '%s' && { %s || find . -type f; }"):format((directory:gsub("'", "'\\''")), git)))
  for path in pipe:lines() do paths[#paths + 1] = directory .. "/" .. path:gsub("^%./", "") end
  pipe:close()
  table.sort(paths)
  return paths
end)

local running -- the task of the last search

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
  directory = vim.fn.fnamemodify(directory or ".", ":p"):gsub("/$", "")
  vim.fn.setqflist({}, " ", { title = "tidegrep " .. pattern })
  running = tidepool.async(function()
    local paths = files_of:remote(directory)
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
