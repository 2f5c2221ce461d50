--- Deaths of worker processes at each step of what they tell their host, and beside their inputs;
-- what bounds a user's processes; clocks that jump.
--
-- What a crash, a timeout and a limit cost is in processes_spec.lua.

local assert = require "luassert"
local support = require "tests.support"
local tidepool = require "tidepool"

support.let_signals_kill()

local app = tidepool.App("deaths", { executor = "processes" })
local contains = support.contains

--- For workers: how often this input has been begun before.
local function tries_of(tries, x)
  return tonumber(tries:add(x, 1))
end

describe("A worker process that is killed", function()
  --- In builds with assertions an item can have its process killed after so many steps
  -- (host/program/child.c).
  local function arm(steps)
    local ffi = require "ffi"
    if not pcall(ffi.typeof, "tidepool_spec_arm") then
      ffi.cdef "typedef int tidepool_spec_arm; void *mmap(void *, size_t, int, int, int, long); int munmap(void *, size_t);"
    end
    local memory = ffi.C.mmap(nil, 4096, 3, 1, 4, 0)
    ffi.cast("uint32_t *", memory)[5] = steps
    ffi.C.munmap(memory, 4096)
  end

  local INPUTS = 12
  local kinds = {
    ["numbers"] = { function(x) return 2 * x end, function(list) return list[INPUTS] == 2 * INPUTS end },
    ["texts"] = { function(x) return ("x"):rep(x), x end, function(list, more) return #list[INPUTS] == INPUTS and more[INPUTS] == INPUTS end },
    ["tables"] = { function(x) return { x } end, function(list)
      for i = 1, INPUTS do
        if list[i][1] ~= i then return false end
      end
      return true
    end },
    ["failures"] = { function(x) return x % 2 == 0 and error({ x }) or x end, function(list)
      for i = 1, INPUTS do
        if i % 2 == 0 and (list[i].kind ~= "error" or list[i].value[1] ~= i) or i % 2 == 1 and list[i] ~= i then return false end
      end
      return true
    end },
  }

  for kind, of in pairs(kinds) do
    it("at any step of giving its " .. kind .. " costs no result, and gives none twice", function()
      if not support.sanitized then return pending "a build with assertions" end
      local fn, repeated = of[1], 0
      for steps = 1, 24 do
        local tries = tidepool.array("int32", INPUTS)
        local f = app:func({ concurrency_limit = 1, crash_retries = 3 }, function(x)
          if tries_of(tries, x) == 0 and x == 3 then arm(steps) end
          return fn(x)
        end)
        local list, more = f:map(tidepool.range(INPUTS), { return_exceptions = true }):list()
        assert.is_true(of[2](list, more), ("after %d steps"):format(steps))
        repeated = repeated + tries:sum() - INPUTS
        for i = 1, INPUTS do assert.is_true(tries[i] >= 1 and tries[i] <= 2, ("input %d, after %d steps: %d"):format(i, steps, tries[i])) end
      end
      assert.is_true(repeated >= 3, repeated .. " inputs that ran twice") -- where the process died before it had told of one
      support.check_pool()
    end)
  end

  it("at any step of results that are written in their place costs none of them", function()
    if not support.sanitized then return pending "a build with assertions" end
    local xs = tidepool.array("double", 20000)
    for i = 1, #xs do xs[i] = i end
    for steps = 1, 12 do
      local armed = tidepool.array("int32", 1)
      local f = app:func({ returns = "double", crash_retries = 3 }, function(x)
        if x == 9000 and tries_of(armed, 1) == 0 then arm(steps) end
        return 2 * x
      end)
      assert.equal(20000 * 20001, f:map(xs):array():sum())
    end
  end)

  it("at any step of asking for a store leaves it whole, and the others go on", function()
    if not support.sanitized then return pending "a build with assertions" end
    local repeated = 0
    for steps = 1, 60 do
      local d, q, tries = tidepool.Dict { n = 0, list = {} }, tidepool.Queue(), tidepool.array("int32", INPUTS)
      q:put "first"
      local f = app:func({ concurrency_limit = 2, crash_retries = 3 }, function(x)
        if tries_of(tries, x) == 0 and x == 3 then arm(steps) end
        d:add "n"
        d:update("list", function(list)
          list[#list + 1] = x
          return list
        end)
        local inner = require "tidepool".Dict { x = x }
        d:put(x, inner)
        q:put(x)
        q:get()
        return d:get(x):get "x"
      end)
      local list = f:map(tidepool.range(INPUTS)):list()
      for i = 1, INPUTS do assert.equal(i, list[i]) end
      local again = tries:sum() - INPUTS
      repeated = repeated + again
      assert.is_true(again <= 1)
      local n, seen = d:get "n", #d:get "list"
      assert.is_true(n >= INPUTS and n <= INPUTS + again and seen >= INPUTS and seen <= n, ("after %d steps: %d, %d"):format(steps, n, seen))
      assert.is_true(#q <= 1 + again)
    end
    assert.is_true(repeated >= 20, repeated .. " inputs that ran twice")
    support.check_pool()
  end)

  it("by a finalizer of what an earlier input has left fails no input that was over", function()
    local tries = tidepool.array("int32", 30)
    local f = app:func({ crash_retries = 1 }, function(x)
      tries_of(tries, x)
      if x == 7 then
        local proxy = newproxy(true)
        getmetatable(proxy).__gc = function() require("ffi").cast("int *", 0)[0] = 1 end
      elseif x > 7 then
        collectgarbage()
      end
      return x * x
    end)
    for i, y in f:map(tidepool.range(30)) do assert.equal(i * i, y) end
    assert.equal(1, tries[7])
  end)
end)

describe("Retries in processes", function()
  it("of one input do not hold up the others, and its value comes in its place", function()
    local tries, begun = tidepool.array("int32", 40), tidepool.array("int32", 1)
    local f = app:func({ retries = { max = 3, initial_delay = 0.2 } }, function(x)
      begun:add(1, 1)
      if x == 5 and tries_of(tries, x) < 2 then error "not yet" end
      return x
    end)
    local results = f:map(tidepool.range(40))
    for i = 1, 4 do assert.equal(i, (results:next())) end
    support.eventually("all others run while one waits", function() return begun[1] >= 40 end)
    for i = 5, 40 do assert.same({ i, i }, { results:next() }) end
  end)
end)

describe("What bounds a user's processes", function()
  it("leaves fewer worker processes, or is one clear error", function()
    local function launcher(processes)
      return ("setpriv --reuid=65533 --clear-groups prlimit --nproc=%d"):format(processes)
    end
    local copy = support.temp_path()
    assert.equal(0, os.execute(("cp '%s' %s && chmod 755 %s"):format(support.binary, copy, copy)))
    if support.run_script("", { binary = copy, launcher = launcher(8) }).code ~= 0 then
      return pending "needs root, and a folder for temporary files where programs may run"
    end
    for _, processes in ipairs { 2, 4, 6, 9, 14, 40 } do
      local out = support.run_script([[
        local tidepool = require "tidepool"
        local f = tidepool.App("x"):func { executor = "processes", name = "f" } (function(x) return x * x end)
        local fine, list = pcall(function() return f:map(tidepool.range(200)):list() end)
        print(fine, fine and list[200] or list.kind .. " " .. list.message)
      ]], { workers = 4, binary = copy, launcher = launcher(processes) })
      assert.is_false(out.timed_out)
      assert.is_nil(out.signal)
      if not out.stdout:find("true\t40000", 1, true) then
        assert.matches("unavailable", out.stdout .. out.stderr, ("--nproc=%d: %s%s"):format(processes, out.stdout, out.stderr))
      end
    end
  end)
end)

describe("A clock that jumps by a day", function()
  it("lets no input time out early or late", function()
    if support.sanitized then return pending "sanitizers come first" end
    local dir = support.temp_dir()
    support.write_file(dir .. "/jump.c", [[
      #define _GNU_SOURCE
      #include <sys/syscall.h>
      #include <sys/time.h>
      #include <time.h>
      #include <unistd.h>
      int clock_gettime(clockid_t clock, struct timespec *t)
      {
          struct timespec now;
          int rc = (int)syscall(SYS_clock_gettime, clock, t);
          syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
          if (rc == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
              t->tv_sec += now.tv_nsec / 20000000 % 2 ? 86400 : -86400;
          return rc;
      }
      int gettimeofday(struct timeval *restrict t, void *restrict zone)
      {
          struct timespec now;
          (void)zone;
          clock_gettime(CLOCK_REALTIME, &now);
          t->tv_sec = now.tv_sec;
          t->tv_usec = now.tv_nsec / 1000;
          return 0;
      }
      time_t time(time_t *to)
      {
          struct timespec now;
          clock_gettime(CLOCK_REALTIME, &now);
          if (to)
              *to = now.tv_sec;
          return now.tv_sec;
      }
    ]])
    if os.execute(("cc -shared -fPIC -o %s/jump.so %s/jump.c 2>/dev/null"):format(dir, dir)) ~= 0 then return pending "no C compiler" end
    local out = support.run_script([[
      local tidepool = require "tidepool"
      local app = tidepool.App("x", { executor = "processes" })
      local f = app:func { timeout = 120, retries = { max = 2, initial_delay = 0.02 } } (function(x)
        if x % 50 == 0 and require "tidepool".current().attempt < 3 then error "again" end
        require "tidepool".sleep(0.002)
        return x
      end)
      local sum = 0
      for i, x in f:map(tidepool.range(200)) do sum = sum + (i == x and x or 0) end
      local _, why = pcall(function() return app:func { timeout = 0.2 } (function() while true do end end):remote() end)
      local has_jumped, before = false, os.time()
      for _ = 1, 1000 do
        tidepool.sleep(0.001)
        has_jumped = has_jumped or math.abs(os.time() - before) > 1000
      end
      print(sum, why.kind, has_jumped)
    ]], { setup = "export LD_PRELOAD=" .. dir .. "/jump.so" })
    assert.equal("20100\ttimeout\ttrue\n", out.stdout .. out.stderr)
  end)
end)

describe("The host itself, when it crashes outside of all inputs", function()
  it("says so in one line, after what it had printed, and its processes end", function()
    if support.sanitized then return pending "sanitizers say more" end
    local out = support.run_script([[
      local tidepool = require "tidepool"
      local ffi = require "ffi"
      io.stdout:setvbuf("full", 65536)
      local f = tidepool.App("x"):func { executor = "processes" } (function()
        local c = require "ffi"
        c.cdef "int getpid(void);"
        return c.C.getpid()
      end)
      io.write(f:remote())
      ffi.cast("int *", 8)[0] = 1
    ]])
    assert.equal(11, out.signal)
    assert.matches("^tidepool: segmentation fault\n", out.stderr) -- what follows is the shell's
    assert.equal(1, select(2, out.stderr:gsub("tidepool: ", "")))
    assert.is_truthy(tonumber(out.stdout))
    support.eventually("its process is gone", function()
      local status = support.read_file("/proc/" .. out.stdout .. "/status")
      return not status or status:find "State:%s+Z" ~= nil
    end, 60)
  end)
end)

describe("Results of processes", function()
  it("that the FFI has made are refused, by their name", function()
    local f = app:func(function(how)
      local ffi = require "ffi"
      if how == "library" then return ffi.load "libc.so.6" end
      if how == "type" then return ffi.typeof "struct { int x; }" end
      if how == "number" then return ffi.new "bool" end
      if not pcall(ffi.typeof, "tidepool_spec_pair") then ffi.cdef "typedef struct tidepool_spec_pair { int x, y; } tidepool_spec_pair;" end
      return ffi.new "tidepool_spec_pair"
    end)
    for how, what in pairs {
      library = "a library of the FFI", type = "a ctype or symbol of the FFI", value = "a cdata<struct tidepool_spec_pair>", number = "a cdata<bool>",
    } do
      local failure = support.failure_of(f.remote, f, how)
      assert.equal("codec", failure.kind)
      contains(failure.message, what, "cannot travel from a worker process")
    end
  end)
end)
