--- Lines of files, and records of CSV, as inputs: tidepool.lines, and the input of `tidepool map`.
--
-- core_lines.c reads and cuts them: it pushes blocks of lines as they lie in the file, so that the
-- script makes no string of a line. Here is the object that users hold, and the source that asks
-- for blocks.

local abi = require "tidepool.base.abi"
local check = require "tidepool.base.check"
local core = require "tidepool.core"
local failure = require "tidepool.failure"
local options = require "tidepool.options"

local lines = {}

-- How many bytes of lines and results may wait: so files of any size are read with little memory.
local WAITING = 2 ^ 24
-- A longer line than this is taken for a mistake; and the largest limit that can be asked for.
lines.LIMIT, lines.LIMIT_MAX = 2 ^ 24, 2 ^ 29
local SEPARATOR_MAX = 16
-- While results are awaited: seconds between two looks for input. Otherwise: milliseconds that are
-- spent waiting for input.
local PATIENCE_S, WAIT_MS = 0.01, 50

---@class tidepool.Lines
---@overload fun(): string|table|nil
local Lines = {}
Lines.__index = Lines
lines.Lines = Lines -- the name by which they travel

-- The readers of lines that loops go over. Not stored in the object, which may travel, and be an
-- input again from its beginning.
local open = setmetatable({}, { __mode = "k" })

--- A reader from the beginning; for a Lua file from its current position. Fields are one list, or
--- with `spreads` an argument each.
local function new_reader(self, spreads)
  return core.lines.open(self.file or self.paths, self.separator, self.columns, self.limit, self.columns ~= nil and not spreads)
end

--- The next line; false at the end. Raises what is wrong with the file.
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
  open[self] = nil -- another loop begins from the start
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

--- Why `columns` cannot separate the fields of lines that end with `separator`; nil when it can.
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

--- A function that gives the lines one by one, for maps over several inputs: true and the line, or
--- false.
function lines.stepper(self)
  local reader = new_reader(self)
  return function()
    local line = take(reader)
    if not line then return false end
    return true, line
  end
end

--- The source for a reader. `rest()` is called when there is nothing to read now. `fill` takes the
--- place of core.lines.fill.
function lines.source_of(reader, rest, fill)
  fill = fill or core.lines.fill
  local source = { is_cheap = true, bytes = WAITING }
  function source.fill(_, job, room)
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

--- The source of f:map(lines) or, with `spreads`, of f:starmap(lines), whose items are the fields
--- of each line.
function lines.source(self, spreads)
  return lines.source_of(new_reader(self, spreads))
end

return lines
