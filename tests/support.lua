--- What the specs share: scripts in processes of their own, notes that workers leave in files, and
-- checks of the two things that every case promises (a clear error; a pool that goes on working).
--
-- Lua states are isolated, so mapped functions talk to their test through files: `note` appends a
-- line in one write, which the kernel does not interleave. Functions that are meant for workers
-- (marked) use nothing but builtins, so that they travel as upvalues.
--
-- No helper asserts how fast something is. Limits of time are guards against hanging, and generous.

local assert = require "luassert"
local lfs = require "lfs"

local support = {}

--- The binary under test.
support.binary = os.getenv "TIDEPOOL" or "build/tidepool"

--- Sanitizers make memory figures meaningless and everything slower.
support.sanitized = os.getenv "TIDEPOOL_SANITIZER" ~= nil or support.binary:find("[at]san") ~= nil

--- How many of n there are to do: fewer under a sanitizer.
function support.times(n)
  return support.sanitized and math.ceil(n / 20) or n
end

--- From here on worker processes, and scripts of their own, die of signals as without a sanitizer:
--- AddressSanitizer and ThreadSanitizer make a report and an exit of them. What they find by
--- themselves they still report.
function support.let_signals_kill()
  if not support.sanitized then return end
  local ffi = require "ffi"
  ffi.cdef "int setenv(const char *, const char *, int);"
  for _, name in ipairs { "ASAN_OPTIONS", "TSAN_OPTIONS" } do
    local given = os.getenv(name) or ""
    for _, signal in ipairs { "segv", "sigbus", "abort", "sigill", "sigfpe", "sigtrap" } do given = ("%s:handle_%s=0"):format(given, signal) end
    ffi.C.setenv(name, given, 1)
  end
end

--- For programs that are started by hand: the settings, with the numbers that the program's
--- arguments give some of them (NAME=NUMBER). Any other argument ends the program.
function support.settings(settings)
  for _, word in ipairs(arg) do
    local name, value = word:match "^(%l+)=(%d+)$"
    if not (name and settings[name]) then
      io.stderr:write(arg[0], ": what is ", word, "?\n")
      os.exit(2)
    end
    settings[name] = tonumber(value)
  end
  return settings
end

-- ---- files ----

local function quote(text)
  return "'" .. tostring(text):gsub("'", [['\'']]) .. "'"
end

function support.write_file(path, contents)
  local file = assert(io.open(path, "wb"))
  file:write(contents)
  file:close()
end

--- The contents of a file, or nil when there is none.
function support.read_file(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local contents = file:read "*a"
  file:close()
  return contents
end

local root, root_owner, made = nil, nil, 0

--- A new empty directory, removed when the spec's process ends.
function support.temp_dir()
  if not root then
    local pipe = assert(io.popen "mktemp -d /tmp/tidepool-spec-XXXXXX")
    root = pipe:read "*l"
    pipe:close()
    os.execute("chmod 755 " .. root)
    root_owner = newproxy(true)
    getmetatable(root_owner).__gc = function() os.execute("rm -rf " .. root) end
  end
  made = made + 1
  local dir = root .. "/" .. made
  assert(lfs.mkdir(dir))
  return dir
end

--- A path where nothing is yet.
function support.temp_path()
  return support.temp_dir() .. "/file"
end

--- For workers: appends one line to a file, in one piece.
function support.note(path, text)
  local file = io.open(path, "a")
  file:setvbuf("full", 65536)
  file:write(tostring(text), "\n")
  file:close()
end

--- The lines that were noted so far, in the order of their writing.
function support.notes(path)
  local lines = {}
  for line in (support.read_file(path) or ""):gmatch "[^\n]*" do
    if line ~= "" then lines[#lines + 1] = line end
  end
  return lines
end

--- The largest number of "+" lines without their "-" line so far: how many ran at once.
function support.most_at_once(path)
  local now, most = 0, 0
  for _, line in ipairs(support.notes(path)) do
    now = now + (line:sub(1, 1) == "+" and 1 or -1)
    most = math.max(most, now)
  end
  return most
end

-- ---- time ----

--- For workers: sleeps in C. (Declarations are made once per state: every one takes an id, and they
-- run out.)
function support.sleep(seconds)
  local ffi = require "ffi"
  if not pcall(ffi.typeof, "tidepool_spec_sleep") then ffi.cdef "typedef int tidepool_spec_sleep; int usleep(unsigned);" end
  ffi.C.usleep(seconds * 1e6)
end

--- For workers: seconds on a clock that all threads and processes share.
function support.now()
  local ffi = require "ffi"
  if not pcall(ffi.typeof, "tidepool_spec_time") then
    ffi.cdef [[
      typedef struct tidepool_spec_time { long s, ns; } tidepool_spec_time;
      int tidepool_spec_clock(int, tidepool_spec_time *) __asm__("clock_gettime");
    ]]
  end
  local t = ffi.new "tidepool_spec_time"
  ffi.C.tidepool_spec_clock(1, t)
  return tonumber(t.s) + tonumber(t.ns) * 1e-9
end

--- For workers: waits until another one has created the file at path; an error after two minutes.
function support.wait_for(path)
  local ffi = require "ffi"
  ffi.cdef "int usleep(unsigned)"
  for _ = 1, 120000 do
    local file = io.open(path)
    if file then
      file:close()
      return
    end
    ffi.C.usleep(1000)
  end
  error("nobody made " .. path .. " within two minutes")
end

--- Waits until condition() holds; fails with `what` after two minutes (or the given seconds).
function support.eventually(what, condition, seconds)
  local deadline = support.now() + (seconds or 120)
  while not condition() do
    if support.now() > deadline then assert(false, "did not happen in time: " .. what) end
    support.sleep(0.005)
  end
end

-- ---- scripts in a process of their own ----

---@class ScriptOptions
---@field workers? integer    size of the pool
---@field flags? string[]     before the script
---@field args? string[]      after the script
---@field files? table        name -> contents of more files beside the script
---@field setup? string       shell commands before the start, e.g. "ulimit -v 300000"
---@field binary? string      what runs the script, by default the binary under test
---@field launcher? string    what starts the binary, e.g. "prlimit --nproc=10"
---@field redirect? string    where its output goes, in shell syntax after the command, instead of to the result
---@field seconds? number     guard against hanging, default 240

--- Runs a script as `job.lua` in a directory of its own. DIR in the source stands for that
-- directory.
---@param source string
---@param options? ScriptOptions
---@return { code: integer?, signal: integer?, timed_out: boolean, stdout: string, stderr: string, dir: string }
function support.run_script(source, options)
  options = options or {}
  local dir = support.temp_dir()
  local function path(name) return dir .. "/" .. name end
  support.write_file(path "job.lua", (source:gsub("DIR", dir)))
  for name, contents in pairs(options.files or {}) do support.write_file(path(name), contents) end

  local words = { "exec timeout -k 5", tostring(options.seconds or 240), options.launcher or "",
    quote(options.binary or support.binary) }
  if options.workers then words[#words + 1] = "--workers " .. options.workers end
  for _, flag in ipairs(options.flags or {}) do words[#words + 1] = quote(flag) end
  words[#words + 1] = quote(path "job.lua")
  for _, argument in ipairs(options.args or {}) do words[#words + 1] = quote(argument) end
  support.write_file(path "start", ("ulimit -c 0\n%s\n%s %s\n"):format(options.setup or "", table.concat(words, " "),
    options.redirect or ""))
  os.execute(("sh %s </dev/null >%s 2>%s; echo $? >%s"):format(path "start", path "stdout", path "stderr",
    path "status"))

  local status = tonumber(support.read_file(path "status"))
  return {
    code = status <= 128 and status or nil,
    signal = status > 128 and status - 128 or nil,
    timed_out = status == 124,
    stdout = support.read_file(path "stdout"),
    stderr = support.read_file(path "stderr"),
    dir = dir,
  }
end

--- What a script printed that must have succeeded in silence.
---@param done table  as run_script gives it
function support.printed(done)
  assert.same({ code = 0, stderr = "" }, { code = done.code or ("signal " .. tostring(done.signal)), stderr = done.stderr })
  return done.stdout
end

--- Runs a script that must succeed in silence; returns what it printed.
function support.output_of(source, options)
  return support.printed(support.run_script(source, options))
end

--- Runs specs in the program, in a process of their own; all must pass.
---@param words string  options of the program
---@param path string   the file of specs, behind what options busted has
function support.pass_specs(words, path)
  local dir = support.temp_dir()
  local status = os.execute(("timeout 600 %s %s /usr/bin/busted -o TAP %s >%s/out 2>&1 </dev/null"):format(support.binary, words, path, dir))
  local output = support.read_file(dir .. "/out")
  if status ~= 0 then
    local failed = {}
    for line in output:gmatch "[^\n]+" do
      if line:find "^not ok" then failed[#failed + 1] = line end
    end
    assert(false, #failed > 0 and table.concat(failed, "\n") or output)
  end
  return output
end

-- ---- what comes out ----

--- Reads results to their end or their error. Returns the first values by index, their number, and
-- the error (nil: none). Fails when an index comes twice.
function support.collect(results)
  local got, n = {}, 0
  local seen = {}
  local ok, err = pcall(function()
    for i, value in results do
      if seen[i] then assert(false, "index " .. tostring(i) .. " came twice") end
      seen[i] = true
      got[i], n = value, n + 1
    end
  end)
  if ok then return got, n, nil end
  return got, n, err
end

--- The Failure that fn(...) raises; fails when there is none.
function support.failure_of(fn, ...)
  local tidepool = require "tidepool"
  local ok, err = pcall(fn, ...)
  assert.is_false(ok, "expected a failure")
  if not tidepool.is_failure(err) then assert(false, "expected a Failure, got " .. type(err) .. ": " .. tostring(err)) end
  return err
end

--- What fn(...) raises, as a text; fails if it raises nothing.
function support.error_of(fn, ...)
  local ok, err = pcall(fn, ...)
  assert.is_false(ok)
  return tostring(err)
end

--- Fails unless the text contains all of the parts, literally.
function support.contains(text, ...)
  assert.equal("string", type(text))
  for _, part in ipairs { ... } do
    if not text:find(part, 1, true) then
      assert(false, ("expected %q in the text\n  %s"):format(part, #text < 2000 and text or text:sub(1, 2000) .. "..."))
    end
  end
end

--- Fails unless fn() raises a plain one-line message that names fn's own file and line and contains
-- all of the parts. Write fn so that the wrong call stands inside it and is no tail call.
function support.mistake(fn, ...)
  local info = debug.getinfo(fn, "S")
  local ok, err = pcall(fn)
  assert.is_false(ok, "expected an error")
  if type(err) ~= "string" then
    assert(false, "expected a plain message, got " .. type(err) .. ": " .. tostring(err))
  end
  local file, line = err:match "^(.-):(%d+): "
  if file ~= info.short_src then assert(false, ("expected %s:LINE: in front of: %s"):format(info.short_src, err)) end
  line = tonumber(line)
  if line < info.linedefined or line > info.lastlinedefined then
    assert(false, ("expected line %d to %d in front of: %s"):format(info.linedefined, info.lastlinedefined, err))
  end
  if err:find("\n", 1, true) then assert(false, "expected one line: " .. err) end
  support.contains(err, ...)
  return err
end

--- Fails unless the pool still works as before.
function support.check_pool()
  local square = require("tidepool").App("check"):func(function(x) return x * x end)
  local got, n, err = support.collect(square:map { 1, 2, 3 })
  assert.is_nil(err)
  assert.equal(3, n)
  assert.same({ 1, 4, 9 }, got)
end

--- The name of the calling file as it stands in error messages, for use in patterns.
function support.file()
  return (debug.getinfo(2, "S").short_src:gsub("%p", "%%%0"))
end

-- ---- the process ----

--- How many worker threads the pool of this process may have.
function support.workers()
  local words = {}
  for word in support.read_file("/proc/self/cmdline"):gmatch "[^%z]+" do words[#words + 1] = word end
  for i, word in ipairs(words) do
    local n = word:match "^%-%-workers=(%d+)$" or word == "--workers" and words[i + 1]
    if n then return tonumber(n) end
  end
  local pipe = assert(io.popen "nproc")
  local n = pipe:read "*n"
  pipe:close()
  return n
end

--- What this process holds now: open files, threads, and memory in MiB.
function support.held()
  local fds = -3 -- ".", ".." and the directory being read
  for _ in lfs.dir "/proc/self/fd" do fds = fds + 1 end
  local status = support.read_file "/proc/self/status"
  return {
    fds = fds,
    threads = tonumber(status:match "Threads:%s*(%d+)"),
    rss = tonumber(status:match "VmRSS:%s*(%d+)") / 1024,
  }
end

--- A control group whose processes may use so many MiB together; nil where none can be made.
-- { tasks = the file that a process's id is written to, remove = removes the group once it is
-- empty }
function support.memory_group(mib)
  local pipe = io.popen([[
    for root in /sys/fs/cgroup/memory /sys/fs/cgroup; do
      group=$root/tidepool-spec-$$
      mkdir $group || continue
      for limit in memory.limit_in_bytes memory.memsw.limit_in_bytes memory.max memory.swap.max; do
        [ ! -e $group/$limit ] || echo ]] .. mib * 2 ^ 20 .. [[ > $group/$limit
      done
      for tasks in tasks cgroup.procs; do
        if [ -e $group/memory.usage_in_bytes -o -e $group/memory.max ] && [ -w $group/$tasks ]; then echo $group $tasks; exit; fi
      done
      rmdir $group
    done 2>/dev/null]])
  local group, tasks = pipe:read("*a"):match "(%S+) (%S+)"
  pipe:close()
  return group and { tasks = group .. "/" .. tasks, remove = function() os.execute("rmdir " .. group) end }
end

--- MiB of memory that could be had.
function support.memory_available()
  return tonumber(support.read_file("/proc/meminfo"):match "MemAvailable:%s*(%d+)") / 1024
end

return support
