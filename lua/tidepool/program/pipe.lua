--- `tidepool map FILE::NAME`: lines of standard input through a function of an app, to lines of
-- standard output, in order.
--
-- Lines are read as they come (lines.lua), and results are written as they arrive: nothing waits
-- for the end of the input, which may be endless. Each input gives one line of output (with
-- --results: one file), except those that fail with --keep-going. A result that is not one line is
-- a failure, too.

local abi = require "tidepool.base.abi"
local check = require "tidepool.base.check"
local cli = require "tidepool.program.cli"
local core = require "tidepool.core"
local failure = require "tidepool.failure"
local ffi = require "ffi"
local interpret = require "tidepool.base.interpret"
local joblog = require "tidepool.program.joblog"
local journal = require "tidepool.engine.journal"
local json = require "tidepool.json"
local lines = require "tidepool.engine.inputs.lines"
local maps = require "tidepool.engine.maps"
local options = require "tidepool.options"
local run = require "tidepool.program.run"
local show = require "tidepool.base.show"
local words = require "tidepool.program.words"

local pipe = {}

-- how many lines are pushed before results are looked for, where each is handled in Lua (JSON, or
-- texts that are kept),
local FIRST = 64
local ENOUGH = 2^20 -- or how many bytes of lines

ffi.cdef [[
  void *tidepool_memchr(const void *, int, size_t) __asm__("memchr");
  size_t tidepool_fwrite(const void *, size_t, size_t, void *) __asm__("fwrite");
  int tidepool_ferror(void *) __asm__("ferror");
  void tidepool_clearerr(void *) __asm__("clearerr");
  void tidepool_fpurge(void *) __asm__("__fpurge");
  char *tidepool_strerror(int) __asm__("strerror");
]]

-- The errno of the first failed write to standard output; nil: there is none. Then the map ends,
-- since what it would compute is lost.
local lost

local EPIPE = 32

--- Notes what io.write or file:flush has returned. Compiled code calls io.write again when it
--- fails, which succeeds then, with what had been written before dropped: so stdio's mark counts.
local function note_write(fine, _, errno)
  if lost or (fine and ffi.C.tidepool_ferror(io.stdout) == 0) then return end
  lost = errno or ffi.errno()
end

--- What to say of it, once, so that the program's end finds nothing more to write. A reader that
--- has gone away is left to that end, which is SIGPIPE's.
local function lost_text()
  if lost == EPIPE then return nil end
  ffi.C.tidepool_clearerr(io.stdout)
  ffi.C.tidepool_fpurge(io.stdout)
  return "cannot write to standard output: " .. ffi.string(ffi.C.tidepool_strerror(lost))
end

-- ---- lines ----

--- The text as a number, if the number is written in the same way again; so "007", "1.50" and "1e5"
--- stay texts.
local function number_of(text)
  local number = tonumber(text)
  return number and show.number(number) == text and number or nil
end

local function plain_text(value)
  local kind = type(value)
  return kind == "string" and value or kind == "number" and show.number(value) or show.value(value)
end

--- The values as one line, separated by tabs.
local function plain_line(...)
  local n, values = select("#", ...), { ... }
  local texts = {}
  for i = 1, n do texts[i] = plain_text(values[i]) end
  return table.concat(texts, "\t")
end

--- Pushes a line of JSON; a line that is not JSON becomes a failure. Returns whether there is room
--- for more, and the line's bytes.
local function push_json(job, count, line)
  local fine, value = json.decode(line)
  if fine then return core.job.add(job, value), #line end
  core.job.push(job)
  core.job.push_failure(job, abi.kind.USAGE, ("line %d is %s"):format(count, value))
  return false, #line
end

--- Pushes a line, or its fields. Returns as push_json does.
local function push_plain(job, _, ...)
  return core.job.add(job, ...), 0
end

--- Pushes as `push` does, and keeps the text of the line, or of its fields, in `texts`, by index.
local function keeper(texts, push)
  return function(job, count, ...)
    local has_room = push(job, count, ...)
    texts[count] = plain_line(...)
    return has_room, #texts[count]
  end
end

--- A function in place of core.lines.fill, which pushes each line by push(job, number of the line,
--- line or its fields).
local function new_fill(push)
  local count = 0
  return function(reader, job, room, wait_ms)
    local n, bytes, has_room, is_over, why = 0, 0, true, false, nil
    local function take(line, ...)
      if line == nil then
        is_over, why = ...
        return false
      end
      n, count = n + 1, count + 1
      local more
      has_room, more = push(job, count, line, ...)
      bytes = bytes + more
      return true
    end
    while n < math.min(room, FIRST) and bytes < ENOUGH and has_room and take(core.lines.take(reader, n == 0 and wait_ms or 0)) do end
    if why and n == 0 then return nil, why end
    core.job.push(job)
    return n, is_over and n == 0
  end
end

--- The source of a map over the lines of standard input.
local function new_source(settings)
  local to_number = not settings.json and not settings.text and number_of or nil
  local reader = core.lines.open(0, settings.separator, settings.columns, settings.limit or lines.LIMIT, false, to_number)
  local push = settings.json and push_json
  if settings.texts then push = keeper(settings.texts, push or push_plain) end
  return lines.source_of(reader, function() io.stdout:flush() end, push and new_fill(push))
end

-- ---- results ----

--- The results as one line. Raises when they are not one; in a file of its own a result may have
--- line ends.
local function result_line(settings, index, ...)
  local line = plain_line(...)
  local tag = settings.tag and settings.texts[index]
  if tag then line = tag .. "\t" .. line end
  if not settings.results and line:find("\n", 1, true) then
    error(tag and tag:find("\n", 1, true) and "an input with a line end in it, written again, would be two lines"
      or "a result with a line end in it would be two lines (--json writes it as one)", 0)
  end
  return line
end

local function encode_results(_, _, ...)
  return json.encode_results(...)
end

local function json_failure(f)
  return json.encode { error = f.message, kind = f.kind, index = f.index }
end

local function is_failure_of(index, value)
  return failure.is_failure(value) and value.index == index
end

--- The line for these results, or the failure that takes their place.
local function line_of(f, settings, index, ...)
  if is_failure_of(index, (...)) then return nil, (...) end
  local fine, line = pcall(settings.json and encode_results or result_line, settings, index, ...)
  if fine then return line end
  return nil, failure.new { kind = abi.kind.CODEC, message = tostring(line), index = index, function_name = f.name, attempts = 0 }
end
interpret(line_of)

--- Writes a line to standard output or, with --results, to the file of this input; a failed input
--- has no file.
local function put_line(settings, index, line)
  if not settings.results then
    if line then note_write(io.write(line, "\n")) end
    return
  end
  local path = ("%s/%d"):format(settings.results, index)
  if not line then return os.remove(path) end
  local file, why = io.open(path, "wb")
  if file then
    local fine, problem = file:write(line, "\n")
    local closed, later = file:close()
    why = not fine and problem or not closed and later
  end
  if why then error(("cannot write %s: %s"):format(path, (why:gsub("^.*: ", ""))), 0) end
end

--- Writes one result. True unless it is a failure; raises the failure when the map must end with
--- it.
local function write(f, settings, index, ...)
  local line, failed = line_of(f, settings, index, ...)
  if settings.log then settings.log:add(index, settings.texts[index], line or failed) end
  if settings.texts then settings.texts[index] = nil end
  if line then
    put_line(settings, index, line)
  elseif not settings.keep_going then
    error(failed, 0)
  elseif settings.json then
    put_line(settings, index, json_failure(failed))
  else
    put_line(settings, index, nil)
    core.io.warn(("tidepool: line %d: %s\n"):format(index, show.plain(failed.message, true)))
  end
  return line ~= nil
end
interpret(write)

-- ---- results in blocks ----

-- Short results come in columns (mixed.lua), and are written from there without making strings.

local kinds = abi.scalar
local ABSENT, NUMBER, STRING, TRUE, FALSE = kinds.ABSENT, kinds.NUMBER, kinds.STRING, kinds.TRUE, kinds.FALSE
local OUT = 65536
local NUMBER_MAX = 32 -- bytes of a number
local TAB, LINE_END, MINUS, ZERO = 9, 10, 45, 48
local out = ffi.new("char[?]", OUT)
local used = 0

local function flush()
  if ffi.C.tidepool_fwrite(out, 1, used, io.stdout) < used then lost = lost or ffi.errno() end
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

--- Appends one value to the output buffer; false when it must be done the general way: it has
--- another form, is not one line, or does not fit.
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

--- Appends the values of item k as a line; false, with nothing appended, when that must be done the
--- general way.
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

--- Writes what it can of a block of columns, and returns where the general way must take over. The
--- buffer is written out before that.
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

--- Skips a block of inputs that have not failed before; returns the index behind it.
local function pass_over(results, settings)
  if settings.texts then
    for k = results.k, results.n - 1 do settings.texts[results.first + k] = nil end
  end
  results.k = results.n
end

--- Maps, and writes the results; returns how many have failed.
local function map(f, settings)
  local log = settings.log
  local function note(of, ...) log:note(of.job, ...) end
  local results = maps.start(f, new_source(settings),
    { return_exceptions = settings.keep_going, journal = settings.journal, times = log and note }, {})
  local is_plain = not (settings.json or settings.texts or settings.results)
  local failed = 0
  local function take(index, ...)
    if index == nil then return false end
    if not write(f, settings, index, ...) then
      failed = failed + 1
      if failed == settings.halt then results:_halt(("%d of %d inputs have failed"):format(failed, index)) end
    end
    return true
  end
  local goes_on
  repeat
    local what, index, value = results:_advance(true)
    if what == "later" then
      note_write(io.stdout:flush()) -- so that the reader has everything so far while more is waited for
      if log then log:flush() end
      what, index, value = results:_advance()
    end
    if what == "block" and results.is_done then
      pass_over(results, settings)
      goes_on = true
    elseif what == "block" then
      goes_on = take(results())
      if goes_on and is_plain then write_block(results) end
    else
      goes_on = take(index, value)
    end
  until not goes_on or lost
  if lost then results:cancel() end
  return failed
end

--- The same with a log: it also has the input whose failure ends the map.
local function map_logged(f, settings)
  local log = settings.log
  local fine, result = pcall(map, f, settings)
  local index = not fine and failure.is_failure(result) and result.index
  if index and settings.texts[index] then log:add(index, settings.texts[index], result) end
  local closed, why = pcall(log.close, log)
  if not fine then error(result, 0) end
  if not closed then error(why, 0) end
  return result
end

-- ---- folders ----

ffi.cdef [[
  int tidepool_mkdir(const char *, unsigned) __asm__("mkdir");
  void *tidepool_opendir(const char *) __asm__("opendir");
  void *tidepool_readdir(void *) __asm__("readdir");
  int tidepool_closedir(void *) __asm__("closedir");
]]

local EEXIST = 17
local ENTRIES_OF_EMPTY = 2 -- "." and ".."

local function errno_text()
  return ffi.string(ffi.C.tidepool_strerror(ffi.errno()))
end

--- Makes the folder for --results. An existing one must be empty, unless its files are those of the
--- run in the journal. Returns what is wrong.
local function make_folder(path, may_go_on)
  if path:find "%z" then return "has a zero byte in it" end
  if ffi.C.tidepool_mkdir(path, 511) == 0 then return nil end -- 0777, less the umask
  if ffi.errno() ~= EEXIST then return ("cannot make %s: %s"):format(path, errno_text()) end
  local folder = ffi.C.tidepool_opendir(path)
  if folder == nil then return ("cannot use %s: %s"):format(path, errno_text()) end
  local n = 0
  while n <= ENTRIES_OF_EMPTY and ffi.C.tidepool_readdir(folder) ~= nil do n = n + 1 end
  ffi.C.tidepool_closedir(folder)
  if n > ENTRIES_OF_EMPTY and not may_go_on then
    return ("%s is not empty: give another folder, or --journal, with which a run goes on"):format(path)
  end
end

-- ---- the command ----

local rows = {
  { "--json", "json" },
  { "--text", "text" },
  { "--keep-going", "keep_going" },
  { "--halt", "halt", needs = "a number of failures, like 3" },
  { "--retry-failed", "retry_failed" },
  { "--columns", "columns", needs = 'what separates fields, like "," or "\\t"' },
  { "--tag", "tag" },
  { "--results", "results", needs = "a folder" },
  { "--joblog", "joblog", needs = "a file" },
  { "-0", "nul" },
  { "--limit", "limit", needs = 'how long a line may be, like "64M"' },
}

--- What is wrong with the options together, or with their values, which are converted; nil when
--- nothing is.
local function trouble_with(given)
  given.separator = given.nul and "\0" or "\n"
  if given.limit then
    local limit = options.size(given.limit)
    if not limit or limit > lines.LIMIT_MAX then return ('--limit: %s is no size of at most 512M, like "64M"'):format(check.show(given.limit)) end
    given.limit = limit
  end
  if given.halt then
    local n = given.halt:find "^%d+$" and tonumber(given.halt)
    if not n or n < 1 then return ("--halt: %s is no number of failures, from 1"):format(check.show(given.halt)) end
    given.halt, given.keep_going = n, true
  end
  if given.columns then
    given.columns = given.columns:gsub("^\\t$", "\t")
    local wrong = lines.trouble_with(given.columns, given.separator)
    if wrong then return ("--columns: %s %s"):format(check.show(given.columns):gsub("\\\n", "\\n"), wrong) end
  end
  for _, other in ipairs { "text", "columns", "tag" } do
    if given.json and given[other] then
      return ("--json and --%s are two %s: choose one"):format(other, other == "tag" and "forms of the output" or "meanings of the lines")
    end
  end
  if given.tag or given.joblog then given.texts = {} end
  if journal.explains() and not core.journal_default then return "--explain needs --journal FILE: it says of its inputs why they run" end
  if given.retry_failed then
    if not core.journal_default then return "--retry-failed needs --journal FILE, which says what has failed" end
    given.journal = { file = core.journal_default.file, only_failed = true }
  end
end

---`tidepool map`: the words after it, without the host's own options.
---@return integer code, string? message
function pipe.main(...)
  local given, wrong = words.parse("map", rows, ...)
  if not given and not wrong then return cli.help "map" end
  wrong = wrong or trouble_with(given)
  if wrong then return 2, wrong end
  local target, extra = given[1], given[2]
  if extra then return 2, ("'%s' is one too many: the inputs are the lines of standard input"):format(extra) end
  if not target then return 2, "map what? (tidepool map FILE::NAME <INPUT; more: tidepool help map)" end
  local f, problem, code = run.load_function(target)
  if not f then return code, problem end
  wrong = given.results and make_folder(given.results, core.journal_default)
  if wrong then return 2, "--results: " .. wrong end
  if given.joblog then
    given.log, wrong = joblog.open(given.joblog, target)
    if wrong then return 2, "--joblog: " .. wrong end
  end
  local failed = (given.log and map_logged or map)(f, given)
  if lost then return 1, lost_text() end
  if failed > 0 then return 1, ("%d failed"):format(failed) end
  return 0
end

return pipe
