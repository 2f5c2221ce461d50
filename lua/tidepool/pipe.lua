--- `tidepool map FILE::NAME`: lines of standard input through a function of an app, to lines of standard output, in order.
--
-- Lines are read as they come and results are written as they are there: nothing waits for the end of the input, and an
-- endless one is fine. One input is one line of output, but for those that fail with --keep-going.

local check = require "tidepool.check"
local core = require "tidepool.core"
local failure = require "tidepool.failure"
local ffi = require "ffi"
local func = require "tidepool.func"
local interpret = require "tidepool.interpret"
local json = require "tidepool.json"
local run = require "tidepool.run"
local show = require "tidepool.show"

local pipe = {}

local CHUNK = 65536
local LOOK = 0.01 -- seconds between two looks for input while results are awaited
local FIRST = 64  -- lines that are pushed at once

ffi.cdef [[
  typedef struct tidepool_pollfd { int fd; short events, revents; } tidepool_pollfd;
  int tidepool_poll(tidepool_pollfd *, unsigned long, int) __asm__("poll");
  long tidepool_read(int, void *, size_t) __asm__("read");
]]

local EINTR, POLLIN = 4, 1

-- ---- lines ----

--- Reads lines of descriptor 0. take(may_wait) -> a line, or nil: none is there now; is_over says whether one will come.
local function new_reader()
  local poll = ffi.new("tidepool_pollfd[1]", { { 0, POLLIN, 0 } })
  local buffer = ffi.new("char[?]", CHUNK)
  local reader, rest, at = { is_over = false }, "", 1

  local function more(may_wait)
    if ffi.C.tidepool_poll(poll, 1, may_wait and -1 or 0) <= 0 then return false end
    local n = tonumber(ffi.C.tidepool_read(0, buffer, CHUNK))
    if n < 0 then
      if ffi.errno() == EINTR then return false end
      error(("cannot read standard input: error %d"):format(ffi.errno()), 0)
    end
    reader.is_over = n == 0
    rest, at = rest:sub(at) .. ffi.string(buffer, n), 1
    return true
  end

  function reader.take(may_wait)
    while true do
      local stop = rest:find("\n", at, true)
      if stop then
        local line = rest:sub(at, stop - 1)
        at = stop + 1
        return line
      elseif reader.is_over then
        local last = rest:sub(at)
        rest, at = "", 1
        return last ~= "" and last or nil
      elseif not more(may_wait) then
        return nil
      end
    end
  end

  return reader
end

--- A line as the function gets it: a number where it is one, and no text that only looks like it ("007").
local function plain_value(line)
  local number = line:find "^[-+]?%.?%d" and not line:find "^[-+]?0%d" and tonumber(line)
  return true, number or line
end

--- The source of a map: pushes the lines that are there, and waits for one only when no result is awaited.
local function new_source(reader, to_value)
  local count = 0
  local function push(job, line)
    count = count + 1
    local fine, value = to_value(line)
    if not fine then
      core.push(job)
      core.push_failure(job, "usage", ("line %d is %s"):format(count, value))
      return false
    end
    return core.add(job, value)
  end
  local function fill(job, room)
    local n, has_room = 0, true
    while n < math.min(room, FIRST) and has_room do
      local line = reader.take(false)
      if not line then break end
      n, has_room = n + 1, push(job, line)
    end
    if n == 0 and not reader.is_over then
      io.stdout:flush()
      local pushed, _, _, delivered = core.counts(job)
      if pushed > delivered then return false, nil, true end
      local line = reader.take(true)
      if line then push(job, line) end
    end
    core.push(job)
    return reader.is_over and n == 0, nil
  end
  return { is_cheap = true, fill = fill, patience = LOOK }
end

-- ---- results ----

local function plain_line(...)
  local n, values = select("#", ...), { ... }
  if n == 1 and type(values[1]) == "string" then return values[1] end
  local texts = {}
  for i = 1, n do
    local value = values[i]
    texts[i] = type(value) == "string" and value or show.value(value)
  end
  return table.concat(texts, "\t")
end

local function json_failure(f)
  return json.encode { error = f.message, kind = f.kind, index = f.index }
end

--- Writes one result; true unless it is a failure.
local function write(settings, index, ...)
  local first = ...
  if failure.is_failure(first) and first.index == index then
    if settings.json then
      io.write(json_failure(first), "\n")
    else
      core.warn(("tidepool: line %d: %s\n"):format(index, show.plain(first.message, true)))
    end
    return false
  end
  io.write((settings.json and json.encode_results or plain_line)(...), "\n")
  return true
end
interpret(write)

local function map(f, settings)
  local source = new_source(new_reader(), settings.json and json.decode or plain_value)
  local results = func.start(f, source, { return_exceptions = settings.keep_going }, {})
  local failed = 0
  local function take(index, ...)
    if index == nil then return false end
    if not write(settings, index, ...) then failed = failed + 1 end
    return true
  end
  repeat until not take(results())
  return failed
end

-- ---- the command ----

local flags = { ["--json"] = "json", ["--keep-going"] = "keep_going" }

---`tidepool map`: the words after it, without the host's own options.
---@return integer code, string? message
function pipe.main(...)
  local settings, target = {}, nil
  for _, word in ipairs { ... } do
    if word == "--help" then return require "tidepool.cli".help "map" end
    if flags[word] then
      settings[flags[word]] = true
    elseif word:find "^%-" then
      local near = check.nearest(word, { "--json", "--keep-going", "--help" })
      return 2, ("unknown option '%s' (%s)"):format(word, near and "did you mean " .. near .. "?"
        or "there are: --json, --keep-going, and those of tidepool")
    elseif target then
      return 2, ("'%s' is one too many: the inputs are the lines of standard input"):format(word)
    else
      target = word
    end
  end
  if not target then return 2, "map what? (tidepool map FILE::NAME <INPUT; more: tidepool help map)" end
  local f, problem, code = run.load_function(target)
  if not f then return code, problem end
  local failed = map(f, settings)
  if failed > 0 then return 1, ("%d failed"):format(failed) end
  return 0
end

return pipe
