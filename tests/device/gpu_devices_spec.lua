--- Several devices, devices that fail, and programs that are kept on disk. Each in a process of its
-- own (not stock: it is the program), with PoCL's processor counted twice, an OpenCL that fails on
-- purpose (tests/opencl/faults.c), or a cache of its own.

local devices = require "tests.support_device"
local shell = require "tests.cli.shell"
local support = require "tests.support"

local contains, run = support.contains, shell.run

-- Under a sanitizer these processes would be seen by it too, PoCL's compiler in them.
local on_pocl = devices.on_pocl(it, pending)

local function faulty() return "TIDEPOOL_OPENCL=" .. devices.faults() .. " " end

describe("two devices", function()
  on_pocl("share a map, and its results are in order", function()
    local done = run("POCL_DEVICES='pthread pthread' $T job.lua", { ["job.lua"] = [[
      local tidepool = require "tidepool"
      assert(#tidepool.devices() == 2)
      local f = tidepool.App():func { gpu = "cpu:2" } (function(x)
        if x % 10000 == 0 then error("which") end
        return math.sin(x)
      end)
      local workers, n = {}, 0
      for round = 1, 200 do -- which one is faster is the machine's business
        for i, y in f:map(tidepool.range(100000), { return_exceptions = true }) do
          if tidepool.is_failure(y) then
            workers[y.worker] = true
          elseif round == 1 then
            assert(math.abs(y - math.sin(i)) < 1e-12)
            n = n + 1
          end
        end
        if workers[1] and workers[2] then break end
      end
      print(n, workers[1], workers[2])
    ]] })
    assert.equal("", done.stderr)
    assert.equal("99990\ttrue\ttrue\n", done.stdout)
  end)

  on_pocl("of which one fails leave the other's results, all of them", function()
    local done = run(faulty() .. "FAULTS_FROM=1 FAULTS_LATER=1 POCL_DEVICES='pthread pthread' $T job.lua", { ["job.lua"] = [[
      local tidepool = require "tidepool"
      local f = tidepool.App():func { gpu = "cpu:2" } (function(x) return 2 * x end)
      for _ = 1, 20 do
        local list = f:map(tidepool.range(60000)):list()
        for i = 1, 60000 do assert(list[i] == 2 * i) end
      end
      print "all there"
    ]] })
    assert.equal("", done.stderr)
    assert.equal("all there\n", done.stdout)
  end)
end)

describe("two devices of unequal speed", function()
  on_pocl("get shares of a map by it", function()
    local done = run(faulty() .. "FAULTS_SLOW=2000 POCL_DEVICES='pthread pthread' $T job.lua", { ["job.lua"] = [[
      local ffi, tidepool = require "ffi", require "tidepool"
      local f = tidepool.App():func { gpu = "cpu:2" } (function(x) return 2 * x end)
      local n = 2000000
      local xs = tidepool.array("double", n)
      for i = 1, n do xs[i] = i end
      ffi.cdef "long faults_items(int queue);"
      local faults = ffi.load(os.getenv "TIDEPOOL_OPENCL")
      for _ = 1, 10 do
        local ys = f:map(xs):array()
        for i = 1, n, 777 do assert(ys[i] == 2 * i) end
      end
      local fast, slow = tonumber(faults.faults_items(0)), tonumber(faults.faults_items(1))
      assert(slow > 0 and fast > 4 * slow, ("%d and %d"):format(fast, slow)) -- 250 ns an element are slower than any load makes the other
      print "fair"
    ]] })
    assert.equal("", done.stderr)
    assert.equal("fair\n", done.stdout)
  end)
end)

describe("two devices of which one does not compile the program", function()
  on_pocl("leave the map to the other", function()
    local done = run(faulty() .. "FAULTS_BUILD=first POCL_DEVICES='pthread pthread' XDG_CACHE_HOME=$PWD $T job.lua", { ["job.lua"] = [[
      local f = require "tidepool".App():func { gpu = "cpu:2" } (function(x) return 2 * x end)
      local list = f:map { 1, 2, 3 }:list()
      print(list[1], list[2], list[3])
    ]] })
    assert.equal("", done.stderr)
    assert.equal("2\t4\t6\n", done.stdout)
  end)
end)

describe("a device with memory of its own", function()
  -- PoCL's, which says so: so the copying is as it would be, and what is measured would not be.
  for _, spec in ipairs { "device/gpu_spec", "engine/reductions_spec" } do
    on_pocl("keeps all that is in " .. spec .. ".lua", function()
      local pipe = io.popen(("%sFAULTS_COPIES=1 timeout -k 5 800 %s /usr/bin/busted -o TAP tests/%s.lua 2>&1; echo ended with $?"):format(
        faulty(), support.binary, spec))
      local text = pipe:read "*a"
      pipe:close()
      contains(text, "on a device", "ended with 0\n")
      assert.is_nil(text:find("not ok", 1, true), text)
    end)
  end

  on_pocl("gives a map its own arrays after another's launch has failed half way", function()
    local done = run(faulty() .. "FAULTS_COPIES=1 $T job.lua", { ["job.lua"] = [[
      local ffi, tidepool = require "ffi", require "tidepool"
      ffi.cdef "void faults_fail(int n);"
      local faults = ffi.load(os.getenv "TIDEPOOL_OPENCL")
      local app = tidepool.App()
      local xs, ys = tidepool.array("double", { 10 }), tidepool.array("double", { 1000 })
      local f = app:func { gpu = true } (function(x) return x + xs[1] end)
      local g = app:func { gpu = true } (function(x) return x + ys[1] end)
      local n, n_failed = 0, 0
      for i, v in f:map(tidepool.range(20000), { window = 500 }) do
        assert(v == i + 10, ("%d gives %g"):format(i, v))
        n = n + 1
        if i % 1000 == 1 then
          faults.faults_fail(1) -- whose launch is the next is the machine's business
          local e = g:map({ 1, 2, 3 }, { return_exceptions = true }):list()
          if tidepool.is_failure(e[1]) then n_failed = n_failed + 1 end
          faults.faults_fail(0)
        end
      end
      print(n, n_failed > 0)
    ]] })
    assert.equal("", done.stderr)
    assert.equal("20000\ttrue\n", done.stdout)
  end)

  on_pocl("copies slices while it computes others", function()
    local done = run(faulty() .. "FAULTS_COPIES=1 $T job.lua", { ["job.lua"] = [[
      local ffi, tidepool = require "ffi", require "tidepool"
      assert(not tidepool.devices()[1].unified)
      local f = tidepool.App():func { gpu = true } (function(x) return 2 * x end)
      local n = 1000000
      local xs = tidepool.array("double", n)
      for i = 1, n do xs[i] = i end
      ffi.cdef "int faults_peak(void);"
      local faults = ffi.load(os.getenv "TIDEPOOL_OPENCL")
      for _ = 1, 200 do -- whether both of its queues have work at once is the machine's business
        local ys = f:map(xs):array()
        for i = 1, n, 777 do assert(ys[i] == 2 * i) end
        if faults.faults_peak() == 2 then break end
      end
      print(faults.faults_peak())
    ]] })
    assert.equal("", done.stderr)
    assert.equal("2\n", done.stdout)
  end)
end)

describe("gpu = { ..., \"threads\" }", function()
  on_pocl("hands the items of a device that fails in the middle to the threads", function()
    local done = run(faulty() .. "FAULTS_FROM=3 POCL_DEVICES='pthread pthread' $T job.lua", { ["job.lua"] = [[
      local tidepool = require "tidepool"
      local function check(options, device)
        local f = tidepool.App():func(options) (function(x)
          if x == 50000 then error("which") end
          return 2 * x
        end)
        local list = f:map(tidepool.range(60000), { return_exceptions = true }):list()
        local failure = list[50000]
        list[50000] = 100000
        for i = 1, 60000 do assert(list[i] == 2 * i) end
        assert(tidepool.is_failure(failure) and failure.kind == "error" and failure.message:find "job.lua:%d+: which")
        local a = tidepool.array("double", 100000):fill(7)
        local twice = f:map(a):array()
        for i = 1, #twice do assert(twice[i] == 14) end
        assert(f:map(a):sum() == 1400000)
        assert(f:remote(4) == 8)
        local stats = f:stats()
        assert(stats.done == 59999 + 200000 + 1 and stats.failed == 1 and stats.running == 0)
      end
      check { gpu = { "cpu", "threads" } }
      check { gpu = { "cpu:2", "threads" } }
      print "all there"
    ]] })
    assert.equal("", done.stderr)
    assert.equal("all there\n", done.stdout)
  end)

  on_pocl("leaves the map to the threads when no device compiles the program", function()
    local done = run(faulty() .. "FAULTS_BUILD=1 XDG_CACHE_HOME=$PWD $T job.lua", { ["job.lua"] = [[
      local tidepool = require "tidepool"
      local function twice(x) return 2 * x end
      local f = tidepool.App():func { gpu = { "cpu", "threads" } } (twice)
      print(f:map({ 1, 2 }):list()[2], f:remote(3))
      print(pcall(function() return tidepool.App():func { gpu = "cpu" } (twice):remote(1) end))
    ]] })
    assert.equal("", done.stderr)
    contains(done.stdout, "4\t6\nfalse\t", "compiling the program failed: CL_BUILD_PROGRAM_FAILURE")
  end)
end)

describe("a device that fails", function()
  on_pocl("fails its items with kind device, and what it was", function()
    local done = run(faulty() .. "FAULTS_FROM=2 $T job.lua", { ["job.lua"] = [[
      local tidepool = require "tidepool"
      local f = tidepool.App():func { gpu = true } (function(x) return 2 * x end)
      print(f:remote(1))
      local list = f:map({ 1, 2 }, { return_exceptions = true }):list()
      print(list[1].kind, list[1].message)
      print(list[2].kind, list[2].index)
    ]] })
    assert.equal("", done.stderr)
    contains(done.stdout, "2\ndevice\t", "starting the kernel failed: CL_OUT_OF_RESOURCES (-5)\ndevice\t2\n")
  end)
end)

local function write(path, bytes)
  local file = assert(io.open(path, "wb"))
  file:write(bytes)
  file:close()
end

describe("a program", function()
  local pocl_cache = support.temp_dir()

  --- Runs x + `by` in a process of its own with this cache.
  local function add(cache, by)
    -- Without one of its own PoCL's cache would be in ours, or, where that is none, elsewhere, with
    -- a line that says so.
    local done = run(("POCL_CACHE_DIR=${POCL_CACHE_DIR:-%s/pocl} XDG_CACHE_HOME=%s $T job.lua"):format(pocl_cache, cache), { ["job.lua"] = ([[
      local f = require "tidepool".App():func { gpu = "cpu", name = "f" } (function(x) return x + %d end)
      print(f:map({ 1 }):list()[1])
    ]]):format(by) })
    assert.equal("", done.stderr)
    return tonumber(done.stdout)
  end

  on_pocl("is compiled once by PoCL, whatever the sizes of its launches", function()
    local cache = support.temp_dir()
    local done = run(("POCL_CACHE_DIR=%s/pocl XDG_CACHE_HOME=%s $T job.lua && find %s/pocl -name '*.so'"):format(cache, cache, cache), {
      ["job.lua"] = [[
        local tidepool = require "tidepool"
        local app = tidepool.App("sizes", { gpu = "cpu" })
        local f, g = app:func(function(x) return x + 1 end), app:func { kernel = "double g(double x) { return x + 1; }" }
        local xs = tidepool.array("double", 4000000)
        for _ = 1, 4 do
          for _, h in ipairs { f, g } do
            local ys = h:map(xs):array()
            for i = 1, #ys do assert(ys[i] == 1) end
          end
        end
      ]] })
    assert.equal("", done.stderr)
    local for_groups = {}
    for path in done.stdout:gmatch "[^\n]+" do
      if not path:find("/0-0-0/", 1, true) then for_groups[#for_groups + 1] = path end -- that one is for the binary
    end
    assert(#for_groups == 2, table.concat(for_groups, "\n"))
  end)

  on_pocl("needs no home, nor a cache that can be written", function()
    local dir = support.temp_dir()
    write(dir .. "/file", "")
    assert.equal(11, add(dir .. "/file", 10))
    local done = run("env -u HOME -u XDG_CACHE_HOME $T job.lua", { ["job.lua"] =
      "print(require 'tidepool'.App():func({ gpu = true }, function(x) return x end):remote(3))" })
    assert.equal("3\n", done.stdout)
  end)

  -- PoCL takes such a folder for "no device", or for a program that does not compile; and none (an
  -- empty name) ends the process.
  on_pocl("needs no folder that PoCL can write", function()
    local job = { ["job.lua"] = "print(require 'tidepool'.App():func({ gpu = 'cpu' }, function(x) return x + 1 end):map({ 1, 2 }):list()[2])" }
    local function with(environment)
      local done = run(("export TMPDIR=$PWD; touch file; chmod 600 file; env %s $T job.lua"):format(environment), job)
      assert.equal("3\n", done.stdout)
      return (done.stderr:gsub(done.dir:gsub("%p", "%%%0"), "DIR"))
    end
    assert.matches("^tidepool: PoCL cannot keep its kernels in /proc/x %(.-%); it does in DIR/tidepool%-pocl%-%d+\n$", with "POCL_CACHE_DIR=/proc/x")
    for _, environment in ipairs {
      "-u POCL_CACHE_DIR -u XDG_CACHE_HOME HOME=/proc", "-u POCL_CACHE_DIR XDG_CACHE_HOME=/proc", "POCL_CACHE_DIR=$PWD/file",
    } do
      contains(with(environment), "tidepool: PoCL cannot keep its kernels in ")
    end
    assert.equal("", with "POCL_CACHE_DIR=")
    assert.equal("", with "POCL_CACHE_DIR=$PWD/new/folder")
    assert.equal("3\n", run("POCL_CACHE_DIR=/proc/x $T --quiet job.lua", job).stdout)
    assert.equal("3\n", run("export TMPDIR=/proc; POCL_CACHE_DIR=$PWD $T job.lua", job).stdout)
  end)

  local can_mount = devices.has_pocl and os.execute "unshare -rm mount -t tmpfs none /mnt 2>/dev/null" == 0
  local on_full_disk = can_mount and it or function(says) pending(says .. " (no OpenCL device of PoCL, or no right to mount a disk)") end

  -- What follows is PoCL's: LLVM ends the process, or a program fails to build without a word why.
  on_full_disk("says that there is no room for PoCL where the temporary folder is full, too", function()
    local done = run([[mkdir full; unshare -rm sh -c '
      mount -t tmpfs -o size=1m none full && head -c 1m /dev/zero >full/zeros 2>/dev/null
      TMPDIR=$PWD/full POCL_CACHE_DIR=$PWD/full/pocl $T job.lua']], { ["job.lua"] =
      "print(#require 'tidepool'.devices() > 0)\nos.exit(0)" })
    assert.equal("true\n", done.stdout)
    assert.matches("^tidepool: PoCL can write neither [^\n]*/full/pocl %(No space left on device%) nor [^\n]*/full/tidepool%-pocl%-%d+ "
      .. "%(No space left on device%), and may fail to compile: make room there, or name another folder in POCL_CACHE_DIR\n$", done.stderr)
  end)

  on_full_disk("runs with caches on a full disk, and leaves nothing there", function()
    local done = run([[mkdir full; unshare -rm sh -c '
      mount -t tmpfs -o size=1m none full && head -c 1m /dev/zero >full/zeros 2>/dev/null
      export TMPDIR=$PWD POCL_CACHE_DIR=$PWD/full/pocl XDG_CACHE_HOME=$PWD/full
      $T job.lua && find full -type f && rm full/zeros && unset POCL_CACHE_DIR && $T job.lua && $T job.lua']], { ["job.lua"] =
      "print(require 'tidepool'.App():func({ gpu = 'cpu' }, function(x) return x + 1 end):map({ 1, 2 }):list()[2])" })
    assert.equal("3\nfull/zeros\n3\n3\n", done.stdout)
    assert.matches("^tidepool: PoCL cannot keep its kernels in [^\n]*/full/pocl %(No space left on device%); it does in [^\n]*\n$", done.stderr)
  end)
end)

describe("OpenCL", function()
  on_pocl("is opened when a function needs it, not before", function()
    local done = run("$T job.lua", { ["job.lua"] = [[
      local tidepool = require "tidepool"
      local function is_open() return io.open "/proc/self/maps":read "*a":find("libOpenCL", 1, true) ~= nil end
      local app = tidepool.App()
      local plain, on_device = app:func(function(x) return x + 1 end), app:func { gpu = { "H200", "any" } } (function(x) return x + 1 end)
      print(plain:remote(1), on_device(1), is_open())
      print(on_device:remote(1), is_open())
    ]] })
    assert.equal("2\t2\tfalse\n2\ttrue\n", done.stdout)
  end)

  on_pocl("compiles a function once per process and once per machine", function()
    local cache, log = support.temp_dir(), support.temp_path()
    local function programs()
      local done = run(faulty() .. ("FAULTS_LOG=%s XDG_CACHE_HOME=%s $T job.lua"):format(log, cache), { ["job.lua"] = [[
        local tidepool = require "tidepool"
        local factor = 2
        local f = tidepool.App():func { gpu = "cpu" } (function(x) return factor * x end)
        for round = 1, 3 do
          factor = round
          assert(f:map({ 1, 2 }):list()[2] == 2 * factor and f:map(tidepool.range(3)):list()[3] == 3 * factor and f:remote(5) == 5 * factor)
        end
        local same = tidepool.App():func { gpu = "cpu", name = "f" } (f.raw)
        assert(same:remote(1) == 3)
      ]] })
      assert.equal("", done.stderr)
      return support.notes(log)
    end
    assert.same({ "source" }, programs())
    assert.same({ "source", "binary" }, programs())
  end)
end)

describe("a report", function()
  on_pocl("says that copies dominate, where they do", function()
    local done = run(faulty() .. "FAULTS_COPIES=1 $T --report r.html job.lua", { ["job.lua"] = [[
      local tidepool = require "tidepool"
      local numbers = tidepool.array("double", 4000000)
      local f = tidepool.App():func { name = "f", gpu = true } (function(i) return numbers[i] + 1 end)
      for i = 1, 3 do
        numbers[1] = i
        f:map(tidepool.range(1000)):sum()
      end]] })
    assert.same({ code = 0, stderr = "" }, { code = done.code, stderr = done.stderr })
    contains(support.read_file(done.dir .. "/r.html"), '"kind":"copies"', "Copies dominate on the device", " MiB there and back")
  end)
end)
