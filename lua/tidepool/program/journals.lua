--- `tidepool journal FILE`: shows what is in a journal; and reads one for `tidepool replay`.
--
-- The file may come from anywhere: its texts are shown without control characters, and its values
-- are decoded as hostile.

local cli = require "tidepool.program.cli"
local core = require "tidepool.core"
local journal = require "tidepool.engine.journal"
local json = require "tidepool.json"
local show = require "tidepool.base.show"
local words = require "tidepool.program.words"

local journals = {}

-- ---- reading ----

local Reader = {}
Reader.__index = Reader

--- Opens a journal for reading, even if a program is writing to it. Or nil and a message.
function journals.open(path)
  local handle, why = core.journal.read(path)
  if not handle then return nil, why end
  return setmetatable({ path = path, handle = handle }, Reader)
end

--- The rows that a statement gives; raises a text.
function Reader:ask(sql, ...)
  return journal.ask(self.handle, sql, ...)
end

--- The two SQL columns for a column of values, for journals.values: a 64-bit integer is more than a
--- number can hold, so it is read as text.
function journals.columns(name)
  return ("typeof(%s), case typeof(%s) when 'integer' then cast(%s as text) else %s end"):format(name, name, name, name)
end

--- The values of such a pair, a list with n; nil when the file has none, or none that can be read.
function journals.values(kind, value)
  if kind == "integer" then
    local sign, digits = value:match "^(%-?)(%d+)$"
    local number = 0LL
    for digit in digits:gmatch "%d" do number = number * 10 + tonumber(digit) end
    return { n = 1, sign == "-" and -number or number }
  elseif kind == "real" or kind == "text" then
    return { n = 1, value }
  elseif kind ~= "blob" then
    return nil
  end
  local function pack(fine, ...)
    if fine then return { n = select("#", ...), ... } end
  end
  return pack(core.journal.values(value, false))
end

--- The values as arguments of a call, on one line.
function journals.text(values)
  if not values then return "input not kept" end
  local texts = {}
  for i = 1, values.n do texts[i] = show.plain(show.value(values[i], { depth = 2, items = 20 }):gsub("%s+", " "), true) end
  return table.concat(texts, ", ")
end

--- For JSON: the values as a list; those without a JSON form become texts.
function journals.json_list(values)
  if not values then return json.null end
  local list = json.list { n = values.n }
  for i = 1, values.n do
    local fine = pcall(json.encode, values[i])
    if fine then list[i] = values[i] else list[i] = show.value(values[i]) end
  end
  return list
end

-- ---- the command ----

-- For each map: how many of its inputs have which state.
local maps_sql = [[
  select name, function, program, inputs, finished, map,
    (select count(*) from items where id between map << 40 and (map << 40) + 1099511627775 and state = 'done'),
    (select count(*) from items where id between map << 40 and (map << 40) + 1099511627775 and state = 'failed'),
    (select count(*) from items where id between map << 40 and (map << 40) + 1099511627775 and state = 'not kept'),
    (select sum(attempts) from items where id between map << 40 and (map << 40) + 1099511627775),
    (select sum(duration) from items where id between map << 40 and (map << 40) + 1099511627775),
    (select max(duration) from items where id between map << 40 and (map << 40) + 1099511627775)
  from maps order by map]]

local failures_sql = [[
  select maps.name, items.id & 1099511627775, attempts, kind, message, started, duration, ]] .. journals.columns "input" .. [[
  from items join maps on maps.map = items.id >> 40 where state = 'failed' order by items.id]]

local function text(value)
  return value and show.plain(tostring(value), true) or "?"
end

--- The value as a number, whatever the file has there.
local function number(value)
  return tonumber(value or nil) or 0
end

--- A time in words.
function journals.seconds(s)
  s = number(s)
  if s < 0.001 then return ("%.0f us"):format(s * 1e6) end
  if s < 1 then return ("%.3g ms"):format(s * 1e3) end
  return s < 600 and ("%.3g s"):format(s) or ("%.0f min"):format(s / 60)
end

--- json.null where the file has nothing.
local function maybe(value)
  return value or json.null
end

--- Writes a list as JSON, one element per line.
function journals.print_json(list)
  local lines = {}
  for i, each in ipairs(list) do lines[i] = "\n  " .. json.encode(each) end
  io.stdout:write("[", table.concat(lines, ","), #lines > 0 and "\n" or "", "]\n")
end

--- Writes rows of texts as columns, the first one left-aligned.
function journals.print_table(rows)
  local widths = {}
  for _, row in ipairs(rows) do
    for c, cell in ipairs(row) do widths[c] = math.max(widths[c] or 0, #cell) end
  end
  for _, row in ipairs(rows) do
    local out = {}
    for c, cell in ipairs(row) do
      local pad = (" "):rep(widths[c] - #cell)
      out[c] = c == 1 and cell .. pad or pad .. cell
    end
    io.stdout:write(table.concat(out, "  "), "\n")
  end
end

local function show_maps(reader, as_json)
  local objects, rows = {}, { { "map", "inputs", "done", "failed", "missing", "attempts", "work", "longest" } }
  for i, row in ipairs(reader:ask(maps_sql)) do
    local name, fn, program, inputs, finished, _, done, failed, not_kept, attempts, work, longest = unpack(row, 1, 12)
    local missing = inputs and math.max(0, number(inputs) - done - failed)
    objects[i] = {
      map = name, ["function"] = maybe(fn), program = maybe(program), inputs = maybe(inputs), done = done, failed = failed,
      not_kept = not_kept, attempts = number(attempts), seconds = number(work), longest = number(longest), finished = maybe(finished),
    }
    rows[i + 1] = {
      text(name), text(inputs), tostring(done), tostring(failed), text(missing), ("%.0f"):format(number(attempts)), journals.seconds(work),
      journals.seconds(longest),
    }
  end
  if as_json then return journals.print_json(objects) end
  if #rows == 1 then return io.stdout:write("no map has used it yet\n") end
  journals.print_table(rows)
end

local function show_failures(reader, as_json)
  local objects = {}
  for i, row in ipairs(reader:ask(failures_sql)) do
    local name, index, attempts, kind, message, started, duration, of, value = unpack(row, 1, 9)
    local input = journals.values(of, value)
    objects[i] = {
      map = name, index = index, attempts = number(attempts), kind = maybe(kind), message = maybe(message), started = maybe(started),
      duration = maybe(duration), input = journals.json_list(input),
    }
    if not as_json then
      io.stdout:write(("%s #%d (%s): %s: %s\n"):format(text(name), index, journals.text(input), text(kind), text(message)))
    end
  end
  if as_json then journals.print_json(objects) end
end

---`tidepool journal FILE [failures] [--json]`.
---@return integer code, string? message
function journals.main(...)
  local given, wrong = words.parse("journal", { { "--json", "json" } }, ...)
  if wrong then return 2, wrong end
  if not given then return cli.help "journal" end
  local path, what, more = unpack(given, 1, 3)
  if not path then return 2, "which journal? (tidepool journal FILE; more: tidepool help journal)" end
  if more or (what and what ~= "failures") then
    return 2, ("journal: what is '%s'? (tidepool journal FILE [failures])"):format(more or what)
  end
  local reader, why = journals.open(path)
  if not reader then return 1, why end
  local fine, problem = pcall(what and show_failures or show_maps, reader, given.json)
  if not fine then return 1, problem end
  return 0
end

return journals
