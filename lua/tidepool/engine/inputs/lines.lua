--- Lines of files as inputs, and fields of CSV: tidepool.lines, and what `tidepool map` reads.
--
-- What reads and cuts is core_lines.c: it pushes blocks of lines as they lie in the file, so that the script makes no string of a line. Here is what
-- a user holds, and the source that asks for blocks.

local abi = require "tidepool.base.abi"
local check = require "tidepool.base.check"
local core = require "tidepool.core"
local failure = require "tidepool.failure"
local options = require "tidepool.options"

local lines = {}

-- What waits of lines and of results, in bytes: files of any size are read in little memory.
local WAITING = 2 ^ 24
-- A line is longer than this by mistake. And the longest that can be allowed.
lines.LIMIT, lines.LIMIT_MAX = 2 ^ 24, 2 ^ 29
local SEPARATOR_MAX = 16
-- Seconds between two looks for input while results are awaited; milliseconds that are spent waiting for input while none are.
local PATIENCE_S, WAIT_MS = 0.01, 50

---@class tidepool.Lines
---@overload fun(): string|table|nil
local Lines = {}
Lines.__index = Lines
lines.Lines = Lines -- they travel by this name

-- Of lines that a loop goes over: what reads them. Not in the object: it may travel, and be an input again, from the beginning.
local open = setmetatable({}, { __mode = "k" })

--- What reads the lines from their beginning; of a Lua file from where that is. Fields are one list, or `spreads` says that each is an argument.
local function new_reader(self, spreads)
  return core.lines.open(self.file or self.paths, self.separator, self.columns, self.limit, self.columns ~= nil and not spreads)
end

--- The next line, false at the end, or what it has said is wrong.
local function take(reader)
  while true do
    local line, is_over, why = core.lines.take(reader, -1)
    if line then return line end
    if why then error(why, 0) end
    if is_over then return false end
  end
end

--- The next line; with columns the list of its fields.
function Lines:__call()
  if not open[self] then open[self] = new_reader(self) end
  local line = take(open[self])
  if line then return line end
  open[self] = nil -- a further loop begins anew
  return nil
end

function Lines:__tostring()
  return ("tidepool.lines(%s)"):format(self.file and "a file" or self.paths[2] and #self.paths .. " files" or self.paths[1] or "no file")
end

local function check_path(path)
  if path:find "%z" then check.fail("tidepool.lines: a path has a zero byte in it") end
  local why = core.lines.check(path)
  if why then check.fail("tidepool.lines: cannot read %s: %s", path, why) end
end

--- Why this cannot separate the fields of lines that end so; nil when it can.
function lines.trouble_with(columns, separator)
  if #columns > SEPARATOR_MAX then return ("is longer than %d bytes"):format(SEPARATOR_MAX) end
  if (columns .. separator):find '"' then return "cannot be or follow a quote: fields may be in quotes" end
  if columns == separator then return "is what ends a line" end
end

--- The lines of files, one after the other, as inputs of a map; or of a loop.
---@param from string|table|file*  a path, a list of paths, or an open file
---@param given table?             options: separator, columns, limit
---@return tidepool.Lines
function lines.new(from, given, extra)
  check.no_more(extra, "tidepool.lines", "(a path, a list of paths, or an open file; options)")
  if given ~= nil and type(given) ~= "table" then check.fail("tidepool.lines: expected a table of options, got %s", check.show(given)) end
  local settings = options.check("tidepool.lines", options.of_lines, given or {})
  local self = { separator = settings.separator or "\n", columns = settings.columns, limit = settings.limit or lines.LIMIT }
  if #self.separator > SEPARATOR_MAX then check.fail("tidepool.lines: option 'separator' is longer than %d bytes", SEPARATOR_MAX) end
  local wrong = self.columns and lines.trouble_with(self.columns, self.separator)
  if wrong then check.fail("tidepool.lines: option 'columns' %s", wrong) end
  if self.limit > lines.LIMIT_MAX then check.fail("tidepool.lines: option 'limit' is at most 512M, got %s", check.show(given.limit)) end
  if io.type(from) == "file" then
    self.file = from
  elseif io.type(from) then
    check.fail "tidepool.lines: the file is closed"
  elseif type(from) == "string" then
    self.paths = { from }
  elseif type(from) == "table" and not getmetatable(from) and (from[1] ~= nil or next(from) == nil) then
    self.paths = {}
    for i = 1, #from do
      if type(from[i]) ~= "string" then check.fail("tidepool.lines: path %d is %s", i, check.show(from[i])) end
      self.paths[i] = from[i]
    end
  else
    check.fail("tidepool.lines: expected a path, a list of paths or an open file, got %s", check.show(from))
  end
  for _, path in ipairs(self.paths or {}) do check_path(path) end
  return setmetatable(self, Lines)
end

--- Are these lines?
function lines.is_lines(value)
  return getmetatable(value) == Lines
end

--- What gives them one by one, for who reads several inputs side by side: true and the line, or false.
function lines.stepper(self)
  local reader = new_reader(self)
  return function()
    local line = take(reader)
    if not line then return false end
    return true, line
  end
end

--- The source of what a reader reads. `rest()` is called where there is nothing to read now. `fill` makes other inputs of the lines than
-- core.lines.fill does.
function lines.source_of(reader, rest, fill)
  fill = fill or core.lines.fill
  local source = { is_cheap = true, bytes = WAITING }
  function source.fill(job, room)
    local counts = core.job.counts(job)
    local may_wait = counts.pushed == counts.delivered and not source.gives_way
    local n, is_over = fill(reader, job, room, 0)
    if n == 0 and not is_over then
      if rest then rest() end
      if may_wait then n, is_over = fill(reader, job, room, WAIT_MS) end
      source.patience = may_wait and 0 or PATIENCE_S
    end
    if not n then
      local why = is_over
      return true, failure.new { kind = abi.kind.ERROR, phase = "input", message = why, value = why, attempts = 1 }
    end
    source.has_more = n > 0 and not is_over
    return is_over, nil, n == 0
  end
  return source
end

--- The source of f:map(lines), or, for `spreads`, of f:starmap(lines), whose items are the fields of each.
function lines.source(self, spreads)
  return lines.source_of(new_reader(self, spreads))
end

return lines
