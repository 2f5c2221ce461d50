--- `tidepool map FILE::NAME`: lines of standard input through a function of an app, to lines of standard output, in order.
--
-- Lines are read as they come (lines.lua) and results are written as they are there: nothing waits for the end of the input, and an
-- endless one is fine. One input is one line of output, but for those that fail with --keep-going: a result that is no line fails, too.

local abi = require "tidepool.base.abi"
local check = require "tidepool.base.check"
local core = require "tidepool.core"
local failure = require "tidepool.failure"
local ffi = require "ffi"
local func = require "tidepool.func"
local interpret = require "tidepool.base.interpret"
local json = require "tidepool.json"
local lines = require "tidepool.engine.inputs.lines"
local options = require "tidepool.options"
local run = require "tidepool.program.run"
local show = require "tidepool.base.show"

local pipe = {}

local FIRST = 64     -- lines of JSON that are pushed at once,
local ENOUGH = 2^20  -- or bytes of them

ffi.cdef [[
  void *tidepool_memchr(const void *, int, size_t) __asm__("memchr");
  size_t tidepool_fwrite(const void *, size_t, size_t, void *) __asm__("fwrite");
]]

-- ---- lines ----

--- A text that may be one as a number, where that, written again, is the same text; so "007", "1.50" and "1e5" are texts.
local function number_of(text)
  local number = tonumber(text)
  return number and show.number(number) == text and number or nil
end

--- Pushes a line of JSON; a line that is none fails by itself.
local function push_json(job, line, count)
  local fine, value = json.decode(line)
  if fine then return core.job.add(job, value) end
  core.job.push(job)
  core.job.push_failure(job, abi.kind.USAGE, ("line %d is %s"):format(count, value))
  return false
end

--- Fills a job as core.lines.fill does, with the values of JSON that the lines are.
local function new_json_fill()
  local count = 0
  return function(reader, job, room, wait_ms)
    local n, bytes, has_room, is_over = 0, 0, true, false
    while n < math.min(room, FIRST) and bytes < ENOUGH and has_room do
      local line, ends, why = core.lines.take(reader, n == 0 and wait_ms or 0)
      if why and n == 0 then return nil, why end
      is_over = ends or false
      if not line then break end
      n, bytes, count = n + 1, bytes + #line, count + 1
      has_room = push_json(job, line, count)
    end
    core.job.push(job)
    return n, is_over and n == 0
  end
end

--- The source of a map over the lines of standard input.
local function new_source(settings)
  local to_number = not settings.json and not settings.text and number_of or nil
  local reader = core.lines.open(0, "\n", nil, settings.limit or lines.LIMIT, false, to_number)
  return lines.source_of(reader, function() io.stdout:flush() end, settings.json and new_json_fill())
end

-- ---- results ----

local function plain_text(value)
  local kind = type(value)
  return kind == "string" and value or kind == "number" and show.number(value) or show.value(value)
end

--- The results as one line. Raises when they are none.
local function plain_line(...)
  local n, values = select("#", ...), { ... }
  local texts = {}
  for i = 1, n do texts[i] = plain_text(values[i]) end
  local line = table.concat(texts, "\t")
  if line:find("\n", 1, true) then error("a result with a line end in it would be two lines (--json writes it as one)", 0) end
  return line
end

local function json_failure(f)
  return json.encode { error = f.message, kind = f.kind, index = f.index }
end

local function is_failure_of(index, value)
  return failure.is_failure(value) and value.index == index
end

--- The line that these results are, or the failure that takes their place.
local function line_of(f, settings, index, ...)
  if is_failure_of(index, (...)) then return nil, (...) end
  local fine, line = pcall(settings.json and json.encode_results or plain_line, ...)
  if fine then return line end
  return nil, failure.new { kind = abi.kind.CODEC, message = tostring(line), index = index, function_name = f.name, attempts = 0 }
end
interpret(line_of)

--- Writes one result; true unless it is a failure. Raises that when the rest is not to go on.
local function write(f, settings, index, ...)
  local line, failed = line_of(f, settings, index, ...)
  if line then
    io.write(line, "\n")
  elseif not settings.keep_going then
    error(failed, 0)
  elseif settings.json then
    io.write(json_failure(failed), "\n")
  else
    core.io.warn(("tidepool: line %d: %s\n"):format(index, show.plain(failed.message, true)))
  end
  return line ~= nil
end
interpret(write)

-- ---- results, block by block ----

-- Short results come in columns (mixed.lua), and go from there to the output without a string of each.

local kinds = abi.scalar
local ABSENT, NUMBER, STRING, TRUE, FALSE = kinds.ABSENT, kinds.NUMBER, kinds.STRING, kinds.TRUE, kinds.FALSE
local OUT = 65536
local NUMBER_MAX = 32 -- bytes of a number
local TAB, LINE_END, MINUS, ZERO = 9, 10, 45, 48
local out = ffi.new("char[?]", OUT)
local used = 0

local function flush()
  ffi.C.tidepool_fwrite(out, 1, used, io.stdout)
  used = 0
end

local function put(bytes, n)
  ffi.copy(out + used, bytes, n)
  used = used + n
end

local function put_number(x)
  if x % 1 ~= 0 or x >= 2^53 or x <= -2^53 or (x == 0 and 1 / x < 0) then
    local text = show.number(x)
    return put(text, #text)
  end
  if x < 0 then
    out[used] = MINUS
    used, x = used + 1, -x
  end
  local digits, rest = 1, x
  while rest >= 10 do
    rest = math.floor(rest / 10)
    digits = digits + 1
  end
  for at = used + digits - 1, used, -1 do
    local above = math.floor(x / 10)
    out[at] = ZERO + (x - above * 10)
    x = above
  end
  used = used + digits
end

--- Puts one value; false when it cannot be done here: it has no such form, is no line, or does not fit.
local function put_scalar(element, text)
  local kind = element.kind
  if used + NUMBER_MAX + 1 > OUT then return false end
  if kind == NUMBER then
    put_number(element.number)
  elseif kind == STRING then
    local bytes, n = text.bytes + element.at, element.length
    if used + n + 1 > OUT or ffi.C.tidepool_memchr(bytes, LINE_END, n) ~= nil then return false end
    put(bytes, n)
  elseif kind == TRUE then
    put("true", 4)
  elseif kind == FALSE then
    put("false", 5)
  else
    return false
  end
  return true
end

--- The values of item k as a line; false, and nothing of it, when that cannot be done here.
local function put_scalars(columns, text, k)
  local begun = used
  for c = 1, #columns do
    local element = columns[c][k]
    if element.kind == ABSENT then break end
    if c > 1 then
      out[used] = TAB
      used = used + 1
    end
    if not put_scalar(element, text) then
      used = begun
      return false
    end
  end
  if used >= OUT then
    used = begun
    return false
  end
  out[used] = LINE_END
  used = used + 1
  return true
end

--- Writes what there is of a block of columns, up to what has to go the general way. Before that what was put here is written.
local function write_block(results)
  local k, n = results.k, results.n
  local columns, text, numbers = results.scalars, results.text, results.is_numbers and results.numbers
  if not columns and not numbers then return end
  while k < n do
    if used > OUT / 2 then flush() end
    if numbers then
      put_number(numbers[k])
      out[used] = LINE_END
      used = used + 1
    elseif not put_scalars(columns, text, k) then
      break
    end
    k = k + 1
  end
  flush()
  results.k = k
end

local function map(f, settings)
  local results = func.start(f, new_source(settings), { return_exceptions = settings.keep_going }, {})
  local failed = 0
  local function take(index, ...)
    if index == nil then return false end
    if not write(f, settings, index, ...) then failed = failed + 1 end
    return true
  end
  repeat
    local goes_on = take(results())
    if goes_on and not settings.json then write_block(results) end
  until not goes_on
  return failed
end

-- ---- the command ----

local flags = { ["--json"] = "json", ["--text"] = "text", ["--keep-going"] = "keep_going" }

---`tidepool map`: the words after it, without the host's own options.
---@return integer code, string? message
function pipe.main(...)
  local settings, target = {}, nil
  local wants_limit = false
  for _, word in ipairs { ... } do
    if word == "--help" then return require "tidepool.program.cli".help "map" end
    local limit = wants_limit and word or word:match "^%-%-limit=(.*)$"
    if limit then
      wants_limit = false
      settings.limit = options.size(limit)
      if not settings.limit or settings.limit > lines.LIMIT_MAX then
        return 2, ('--limit: %s is no size of at most 512M, like "64M"'):format(check.show(limit))
      end
    elseif word == "--limit" then
      wants_limit = true
    elseif flags[word] then
      settings[flags[word]] = true
    elseif word:find "^%-" then
      local near = check.nearest(word, { "--json", "--text", "--keep-going", "--limit", "--help" })
      return 2, ("unknown option '%s' (%s)"):format(word, near and "did you mean " .. near .. "?"
        or "there are: --json, --text, --keep-going, --limit, and those of tidepool")
    elseif target then
      return 2, ("'%s' is one too many: the inputs are the lines of standard input"):format(word)
    else
      target = word
    end
  end
  if wants_limit then return 2, '--limit needs how long a line may be, like "64M"' end
  if settings.json and settings.text then return 2, "--json and --text are two meanings of the lines: choose one" end
  if not target then return 2, "map what? (tidepool map FILE::NAME <INPUT; more: tidepool help map)" end
  local f, problem, code = run.load_function(target)
  if not f then return code, problem end
  local failed = map(f, settings)
  if failed > 0 then return 1, ("%d failed"):format(failed) end
  return 0
end

return pipe
