-- A generator: the lines of code in a tree of files, found as they are read. `find` runs ahead of
-- the loop by a few files; the files of several folders are read at once, and come in the order of
-- the folders.
--
--   build/tidepool examples/crawl.lua
--   build/tidepool examples/crawl.lua lua host

local tidepool = require "tidepool"
local app = tidepool.App "crawl"

--- Yields the files below a folder, one by one.
local find = app:func { window = 16 } (function(folder)
  local pipe = assert(io.popen(("find '%s' -name '*.lua' -type f | sort"):format(folder)))
  for path in pipe:lines() do coroutine.yield(path) end
  pipe:close()
end)

--- Yields each function that is defined in the files below a folder: the path, the line, the name.
local functions = app:func(function(folder)
  for path in find:stream(folder) do
    local number = 0
    for line in io.lines(path) do
      number = number + 1
      local name = line:match "^%s*l?o?c?a?l?%s*function%s+([%w_.:]+)"
      if name then coroutine.yield(path, number, name) end
    end
  end
end)

app:main(function(args)
  local folders = #args > 0 and args or { "examples", "bench" }
  local counts, longest = {}, { name = "" }
  for i, path, line, name in functions:flat_map(folders) do
    counts[i] = (counts[i] or 0) + 1
    if #name > #longest.name then longest = { name = name, path = path, line = line } end
  end
  for i, folder in ipairs(folders) do print(("%s: %d functions"):format(folder, counts[i] or 0)) end
  print(("the longest name: %s (%s:%d)"):format(longest.name, longest.path, longest.line))
end)
