-- A job queue with producers and consumers: some workers read files, others count words, and the
-- script adds up. The queues are bounded, so that nobody runs far ahead; a worker that waits for
-- one lends its place to others.
--
--   build/tidepool examples/jobs.lua
--   build/tidepool examples/jobs.lua README.md ARCHITECTURE.md

local tidepool = require "tidepool"
local app = tidepool.App "jobs"

local texts = tidepool.Queue { capacity = 8 }
local counts = tidepool.Dict()

--- Puts pieces of a file into the queue.
local produce = app:func(function(path)
  local piece = {}
  for line in io.lines(path) do
    piece[#piece + 1] = line
    if #piece == 50 then
      texts:put(table.concat(piece, "\n"))
      piece = {}
    end
  end
  texts:put(table.concat(piece, "\n"))
end)

--- Counts the words of what it is given, until the queue is closed; gives how many pieces it had.
local consume = app:func(function()
  local pieces = 0
  for text in texts:each() do
    local own = {}
    for word in text:gmatch "%a+" do own[word:lower()] = (own[word:lower()] or 0) + 1 end
    for word, n in pairs(own) do counts:add(word, n) end
    pieces = pieces + 1
  end
  return pieces
end)

app:main(function(args)
  local paths = #args > 0 and args or { "README.md", "ARCHITECTURE.md", "CHANGELOG.md" }
  local consumers = {}
  for i = 1, 3 do consumers[i] = consume:spawn() end
  produce:for_each(paths)
  texts:close()
  local pieces = 0
  for _, call in ipairs(consumers) do pieces = pieces + call:get() end
  local words = {}
  for word, n in counts:pairs() do words[#words + 1] = { word = word, n = n } end
  table.sort(words, function(a, b) return a.n > b.n or (a.n == b.n and a.word < b.word) end)
  print(("%d different words in %d pieces of text"):format(#words, pieces))
  for i = 1, 3 do print(("%6d %s"):format(words[i].n, words[i].word)) end
end)
