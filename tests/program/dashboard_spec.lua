--- --dashboard (not stock: it belongs to the program): what the page is sent, the button, who is
-- refused, and when it ends.
-- How the page looks and behaves is for scripts/check-dashboard, which needs a browser.

local assert = require "luassert"
local bit = require "bit"
local cjson = require "cjson"
local ffi = require "ffi"
local shell = require "tests.cli.shell"
local support = require "tests.support"

local contains = support.contains

ffi.cdef [[
  typedef struct dashboard_spec_address { uint16_t family, port; uint32_t address; char rest[8]; } dashboard_spec_address;
  typedef struct dashboard_spec_time { long s, us; } dashboard_spec_time;
  int dashboard_spec_socket(int, int, int) __asm__("socket");
  int dashboard_spec_option(int, int, int, const void *, uint32_t) __asm__("setsockopt");
  int dashboard_spec_connect(int, const dashboard_spec_address *, uint32_t) __asm__("connect");
  long dashboard_spec_send(int, const char *, size_t, int) __asm__("send");
  long dashboard_spec_receive(int, char *, size_t, int) __asm__("recv");
  int dashboard_spec_close(int) __asm__("close");
]]

-- ---- connections ----

local Connection = {}
Connection.__index = Connection

--- Connects to a port of this machine; nil when nobody listens there. What is read waits a minute
--- at most.
local function connect(port)
  local fd = ffi.C.dashboard_spec_socket(2, 1, 0)
  local patience = ffi.new("dashboard_spec_time", 60, 0)
  ffi.C.dashboard_spec_option(fd, 1, 20, patience, ffi.sizeof(patience)) -- SO_RCVTIMEO
  local at = ffi.new "dashboard_spec_address"
  at.family, at.port, at.address = 2, bit.bor(bit.lshift(port % 256, 8), math.floor(port / 256)), 0x0100007f
  if ffi.C.dashboard_spec_connect(fd, at, ffi.sizeof(at)) ~= 0 then
    ffi.C.dashboard_spec_close(fd)
    return nil
  end
  return setmetatable({ fd = fd, text = "" }, Connection)
end

function Connection:send(text)
  return tonumber(ffi.C.dashboard_spec_send(self.fd, text, #text, 0x4000)) -- MSG_NOSIGNAL
end

--- Reads more; false at the end.
function Connection:more()
  local room = ffi.new "char[65536]"
  local n = tonumber(ffi.C.dashboard_spec_receive(self.fd, room, 65536, 0))
  if n <= 0 then return false end
  self.text = self.text .. ffi.string(room, n)
  return true
end

--- All that comes until the other side closes.
function Connection:rest()
  while self:more() do end
  ffi.C.dashboard_spec_close(self.fd)
  return self.text
end

function Connection:close()
  ffi.C.dashboard_spec_close(self.fd)
end

-- ---- scripts with a dashboard ----

local Run = {}
Run.__index = Run

local head = [[
local tidepool = require "tidepool"
local app = tidepool.App "shown"
local ffi = require "ffi"
ffi.cdef "int usleep(unsigned);"
local function nap(ms) ffi.C.usleep(ms * 1000) end
local function is_there(name)
  local file = io.open(name)
  return file and file:close()
end
local function wait_for(name) while not is_there(name) do tidepool.sleep(0.01) end end
]]

local started = {}

--- Starts a script, or with `source` nil a session whose lines come from the file "in"; waits for
--- its address.
local function start(source, words)
  local run = setmetatable({ dir = support.temp_dir() }, Run)
  support.write_file(run.dir .. "/job.lua", source and head .. source or "")
  local command = ("exec $T -w 2 %s %s"):format(words or "--dashboard", source and "job.lua" or "-i <in")
  os.execute(([[T=$(realpath %s); export T; cd %s; unset LUA_INIT; mkfifo in
    (timeout -k 5 240 sh -c 'echo $$ >pid; %s' >out 2>err; echo $? >code) </dev/null >/dev/null 2>&1 &]]):format(shell.quote(support.binary), run.dir,
    command))
  if not source then run.input = assert(io.open(run.dir .. "/in", "w")) end
  started[#started + 1] = run
  support.eventually("an address is printed", function() return (run:said "err"):find "dashboard is at [^\n]*\n" or run:said "code" ~= "" end)
  run.address = (run:said "err"):match "http://%S+"
  assert(run.address, run:said "err")
  run.port, run.token = run.address:match "^http://127%.0%.0%.1:(%d+)/(%x+)/$"
  run.port = tonumber(run.port)
  return run
end

function Run:said(name)
  return support.read_file(self.dir .. "/" .. name) or ""
end

--- Makes a file that the script waits for.
function Run:tell(name)
  support.write_file(self.dir .. "/" .. name, "")
end

--- Waits for its end -> exit code, output, errors after the line with the address
function Run:finish()
  if self.input then self.input:close() end
  self.input = nil
  support.eventually("the script ends", function() return self:said "code" ~= "" end)
  local errors = (self:said "err"):gsub("^tidepool: the dashboard is at [^\n]*\n", "")
  return tonumber(self:said "code"), self:said "out", errors
end

--- One request, as it is -> the answer's code, all of the answer
function Run:ask(text)
  local connection = assert(connect(self.port))
  connection:send(text)
  local answer = connection:rest()
  return tonumber(answer:match "^HTTP/1%.%d (%d+)"), answer
end

--- The same for a path below the token, with more lines in the header.
function Run:request(method, path, lines, body)
  return self:ask(("%s /%s/%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%s%s\r\n%s"):format(method, self.token, path, self.port, lines or "",
    body and ("Content-Length: %d\r\n"):format(#body) or "", body or ""))
end

--- A page that listens.
function Run:listen()
  local connection = assert(connect(self.port))
  connection:send(("GET /%s/events HTTP/1.0\r\nHost: 127.0.0.1:%d\r\nOrigin: http://127.0.0.1:%d\r\n\r\n"):format(self.token, self.port, self.port))
  return connection
end

--- Reads states until one holds; gives that.
local function state_that(connection, what, holds)
  local last
  while true do
    local event, rest = connection.text:match "data: ({[^\n]*)\n\n(.*)$"
    if event then
      connection.text = rest
      last = cjson.decode(event)
      if holds(last) then return last end
    elseif not connection:more() then
      error(("there was never %s; last: %s"):format(what, last and cjson.encode(last):sub(1, 3000) or connection.text:sub(1, 3000)))
    end
  end
end

local function find(list, holds)
  for _, x in ipairs(list) do
    if holds(x) then return x end
  end
end

local function map_of(state, name)
  return find(state.open_maps, function(m) return m["function"] == name end)
end

local function is_loadable()
  return (pcall(ffi.load, "libmicrohttpd.so.12"))
end

describe("--dashboard", function()
  local it = is_loadable() and it or function(name) pending(name .. " (libmicrohttpd is not installed)") end -- luacheck: ignore

  after_each(function()
    for _, run in ipairs(started) do
      if run.input then run.input:close() end
      os.execute(("kill -KILL $(cat %s/pid) 2>/dev/null"):format(run.dir))
    end
    started = {}
  end)

  it("shows maps with their progress, workers with what they run, failures with tracebacks, memory", function()
    for _, executor in ipairs { "threads", "processes" } do
      local run = start(([[
        local f = app:func { name = "f", executor = %q } (function(x)
          if x == 3 then error { code = 7, why = { 1, 2, "three" } } end
          if x == 5 then error "five" end
          return x
        end)
        local g = app:func { name = "g", executor = %q } (function(x) while not is_there "go" do nap(5) end return x end)
        for _ in f:map(tidepool.range(6), { return_exceptions = true }) do end
        for _ in g:map(tidepool.range(30)) do end]]):format(executor, executor))
      local page = run:listen()
      local state = state_that(page, "two workers that each run an item", function(s)
        local n = 0
        for _, t in ipairs(s.tracks) do
          for _, o in ipairs(t.open) do n = n + (o[1] == 0 and 1 or 0) end
        end
        return n == 2 and map_of(s, "g")
      end)
      local map, over = map_of(state, "g"), state.ended_maps[1]
      assert.same({ 30, 0, 0, executor, false }, { map.total, map.done, map.failures, map.executor, map.cancelled })
      -- what was begun in one go runs until all of it is done
      assert.is_true(map.running >= 2 and map.running + map.waiting == 30, cjson.encode(map))
      assert.is_true(map.opened < state.seconds and state.live)
      assert.same({ 6, 2, false, "f", 1 }, { over.done, over.failures, over.cancelled, over["function"], #state.ended_maps })
      assert.equal(2, #state.failed)
      for _, t in ipairs(state.tracks) do
        local o = find(t.open, function(box) return box[1] == 0 end)
        if o then
          contains(t.name, executor)
          assert.equal("g", state.functions[o[2] + 1].name)
          assert.is_true(o[5] >= 1 and (o[6] == 1 or executor == "processes"))
          assert.is_true(o[3] <= state.seconds)
          assert.equal(executor == "processes", t.process ~= nil)
          if t.process then
            assert.equal(0, os.execute("kill -0 " .. t.process))
            assert.is_true(t.memory > 1)
          end
        end
      end
      local five, three = state.failed[1], state.failed[2]
      if five.index ~= 5 then five, three = three, five end
      assert.same({ "f", 5, 1, "error", false }, { five["function"], five.index, five.attempt, five.kind, five.retried })
      contains(five.message, "job.lua:", "five")
      contains(five.traceback, "traceback", "job.lua:")
      contains(three.message, "code")
      contains(three.traceback, "job.lua:")
      assert.is_true(#state.samples > 0 and state.samples[#state.samples][6] > 1, "memory")
      run:tell "go"
      state = state_that(page, "the end of the map", function(s) return #s.open_maps == 0 end)
      over = state.ended_maps[1]
      assert.same({ 30, 0, false, "g" }, { over.done, over.failures, over.cancelled, over["function"] })
      contains(page:rest(), "event: end")
      assert.same({ 0, "", "" }, { run:finish() })
      assert.is_nil(connect(run.port))
    end
  end)

  it("shows the maps inside of items of worker processes while these wait, until they are over or their process is dead", function()
    local run = start [[
      local inner = app:func { name = "inner", executor = "inline" } (function(x)
        repeat nap(5) until x ~= 3 or is_there "go"
        if x == 2 then error "two" end
        return x
      end)
      local outer = app:func { name = "outer", executor = "processes", crash_retries = 0 } (function(x)
        for _ in inner:map(tidepool.range(4), { return_exceptions = true }) do end
        return x
      end)
      for _ in outer:map(tidepool.range(2), { return_exceptions = true }) do end
      print(outer:map(tidepool.range(2)):sum())
      wait_for "end"]]
    local page = run:listen()
    local function inner_of(state)
      local found, outer = {}, map_of(state, "outer")
      for _, m in ipairs(state.open_maps) do
        if m["function"] == "inner" then found[#found + 1] = m end
        if m["function"] == "inner" and m.done == 2 then
          assert.same({ outer.number, 0, 4, 1, true }, { m.parent, m.parent_process, m.total, m.failures, m.process > 1 })
        end
      end
      return found
    end
    local maps
    state_that(page, "a map inside of each of two processes, that runs its third item", function(s)
      maps = inner_of(s)
      return #maps == 2 and maps[1].done == 2 and maps[2].done == 2
    end)
    local first, second = maps[1].process, maps[2].process
    assert.are_not.equal(first, second)
    os.execute("kill -KILL " .. first)
    state_that(page, "one such map less", function(s)
      maps = inner_of(s)
      return #maps == 1 and maps[1].process == second
    end)
    run:tell "go"
    state_that(page, "none of them", function(s) return #inner_of(s) == 0 and #s.open_maps == 0 end)
    page:close()
    run:tell "end"
    assert.same({ 0, "3\n", "" }, { run:finish() })
  end)

  it("cancels a map, of which its script gets a failure, and then goes on", function()
    for _, executor in ipairs { "threads", "processes", "inline" } do
      local run = start(([[
        local f = app:func { name = "f", executor = %q } (function(x) nap(5) return x end)
        local function endless() local n = 0 return function() n = n + 1 return n end end
        local fine, why = pcall(function() for _ in f:map(endless()) do end end)
        print(fine, why.kind, why.message)
        local fine, why = pcall(function() return f:map(endless(), { return_exceptions = true }):sum() end)
        print(fine, why.kind)
        print(f:map(tidepool.range(100)):sum())
        wait_for "go"]]):format(executor))
      local page = run:listen()
      for _ = 1, 2 do
        local map = map_of(state_that(page, "an open map", function(s) return #s.open_maps == 1 and s.open_maps[1].done > 5 end), "f")
        local code, answer = run:request("POST", "cancel?map=" .. map.number, ("Origin: http://localhost:%d\r\n"):format(run.port), "now")
        assert.equal(200, code, answer)
        contains(answer, "map " .. map.number .. " is cancelled")
        state_that(page, "the map's end", function(s)
          return find(s.ended_maps, function(m) return m.number == map.number and m.cancelled end)
        end)
        assert.equal(410, (run:request("POST", "cancel?map=" .. map.number)))
      end
      run:tell "go"
      local code, out, errors = run:finish()
      assert.same({ 0, "false\tcancelled\tthe map was cancelled\nfalse\tcancelled\n5050\n", "" }, { code, out, errors })
      page:close()
    end
  end)

  it("refuses hostile requests, and goes on", function()
    local run = start [[
      local f = app:func { name = "f" } (function(x) nap(5) return x end)
      local function endless() local n = 0 return function() n = n + 1 if not is_there "go" then return n end end end
      print(pcall(function() for _ in f:map(endless()) do end end))]]
    local slow = {}
    for i = 1, 3 do
      slow[i] = connect(run.port)
      slow[i]:send(("GET /%s/ HTTP/1.1\r\nHost: "):format(run.token):sub(1, 20 * i))
    end
    local began = support.now()
    local page = run:listen()
    local number = state_that(page, "a map", function(s) return #s.open_maps == 1 end).open_maps[1].number
    local cancel = "cancel?map=" .. number

    -- it is at the loopback address only
    local listens = {}
    for address, state in support.read_file "/proc/net/tcp":gmatch(("\n%%s*%%d+: (%%x+):%04X %%x+:%%x+ (%%x+)"):format(run.port)) do
      if state == "0A" then listens[#listens + 1] = address end
    end
    assert.same({ "0100007F" }, listens)
    assert.is_nil(support.read_file "/proc/net/tcp6":find((":%04X %%x+:0000 0A"):format(run.port)))

    local function refused(expected, request, part)
      local code, answer = run:ask(request)
      assert.equal(expected, code, request:sub(1, 200))
      contains(answer, part or "")
      assert.is_nil(answer:find(run.token, 1, true))
      assert.is_nil(answer:find("<html", 1, true))
    end
    local here = ("Host: 127.0.0.1:%d\r\n"):format(run.port)
    local wrong = run.token:gsub("^.", function(c) return c == "0" and "1" or "0" end)
    local function get(path, lines) return ("GET %s HTTP/1.1\r\n%s\r\n"):format(path, lines or here) end
    local own = "/" .. run.token .. "/"

    -- no token, a wrong one, a part of it
    for _, path in ipairs { "/", "/events", "/" .. wrong .. "/", "/" .. wrong .. "/events", own:sub(1, -3), own:sub(1, -2) .. "0/", "//" .. own } do
      refused(403, get(path), "lacks its token")
    end
    refused(403, ("POST /%s HTTP/1.1\r\n%sContent-Length: 0\r\n\r\n"):format(cancel, here), "lacks its token")
    -- other names for this machine
    for _, host in ipairs { "evil.example", "evil.example:" .. run.port, "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil.example:" .. run.port } do
      refused(403, get(own, "Host: " .. host .. "\r\n"), "this page is at 127.0.0.1:" .. run.port .. " only")
    end
    -- other pages
    for _, line in ipairs { "Origin: http://evil.example", "Origin: null", "Origin: https://127.0.0.1:" .. run.port, "Origin: http://127.0.0.1:1",
      "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site" } do
      for _, path in ipairs { "", "events" } do refused(403, get(own .. path, here .. line .. "\r\n"), "other pages") end
      local code = run:request("POST", cancel, line .. "\r\n", "")
      assert.equal(403, code, line)
    end
    -- what is not there, and not as one asks for it
    refused(404, get(own .. "other"))
    refused(404, get(own .. "../../etc/passwd"))
    for _, request in ipairs { { "GET", cancel }, { "POST", "" }, { "POST", "events" }, { "DELETE", "" }, { "PUT", cancel } } do
      assert.equal(405, (run:request(request[1], request[2], nil, "")), request[1] .. " " .. request[2])
    end
    for _, map in ipairs { "", "?map=", "?map=x", "?map=-1", "?map=1x", "?map=99999999999999999999999", "?other=1" } do
      assert.equal(400, (run:request("POST", "cancel" .. map, nil, "")), map)
    end
    assert.equal(410, (run:request("POST", "cancel?map=0", nil, "")))
    assert.equal(410, (run:request("POST", "cancel?map=18446744073709551615", nil, "")))
    -- too much of everything: the map goes on, and what is not answered is closed
    assert.equal(413, (run:request("POST", cancel, nil, ("x"):rep(1000000))))
    local chunks = ("POST %s%s HTTP/1.1\r\n%sTransfer-Encoding: chunked\r\n\r\n"):format(own, cancel, here)
      .. ("1000\r\n" .. ("x"):rep(4096) .. "\r\n"):rep(50)
    local code = run:ask(chunks)
    assert.is_true(code ~= 200, code)
    for _, request in ipairs { get(own, here .. "X: " .. ("y"):rep(100000) .. "\r\n"), get(own, here .. ("X: y\r\n"):rep(20000)),
      get("/" .. ("z"):rep(1e6)),
      "\0\1\2\255" .. ("\r\n"):rep(10), "GET\r\n\r\n", ("GET "):rep(30000), "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" } do
      local status, answer = run:ask(request)
      assert.is_true(status == nil or status >= 400, tostring(status))
      assert.is_nil(answer:find(run.token, 1, true))
    end
    -- more pages than there may be
    local pages = {}
    for i = 1, 16 do pages[i] = run:listen() end
    local answer = pages[16]:rest()
    contains(answer, "503", "16 pages are open already")
    for i = 1, 15 do pages[i]:close() end

    -- the page is there for its user all the time, and says nothing to other pages
    code, answer = run:request("GET", "")
    assert.equal(200, code)
    contains(answer, "<html", '{"live":true}', "Referrer-Policy: no-referrer", "Cache-Control: no-store")
    contains(answer, "frame-ancestors 'none'", "X-Frame-Options: DENY")
    assert.is_nil(answer:find("Access-Control", 1, true))
    local state = state_that(page, "the map", function(s) return #s.open_maps == 1 end)
    assert.same({ number, false }, { state.open_maps[1].number, state.open_maps[1].cancelled })
    -- connections that never become a request are closed
    for i = 1, 3 do assert.is_nil(slow[i]:rest():find "HTTP/1.1 200") end
    assert.is_true(support.now() - began < 50)
    run:tell "go"
    assert.same({ 0, "true\n", "" }, { run:finish() })
    page:close()
  end)

  it("does not wait for pages that read nothing", function()
    local run = start [[
      local f = app:func { name = "f" } (function(x) return x end)
      f:map(tidepool.range(1e5)):list()
      wait_for "go"
      os.exit(3)]]
    local page = run:listen() -- of which nothing is read
    state_that(run:listen(), "a state", function() return true end)
    run:tell "go"
    assert.equal(3, (run:finish()))
    page:close()
  end)

  it("stays as long as a session", function()
    local run = start()
    run.input:write(head:gsub("local ", "") .. "f = app:func { name = 'f' } (function(x) return x end)\nprint(f:map(tidepool.range(10)):sum())\n")
    run.input:flush()
    local page = run:listen()
    state_that(page, "the first map", function(s) return s.ended_maps[1] and s.ended_maps[1].done == 10 end)
    run.input:write "print(f:map(tidepool.range(20)):sum())\n"
    run.input:flush()
    state_that(page, "the second map", function(s) return s.ended_maps[1].done == 20 and #s.ended_maps == 2 end)
    assert.equal(200, (run:request("GET", "")))
    run.input:write "function endless() local n = 0 return function() n = n + 1 return n end end\nfor _ in f:map(endless()) do end\n"
    run.input:flush()
    local map = state_that(page, "the third map", function(s) return #s.open_maps == 1 end).open_maps[1]
    assert.equal(200, (run:request("POST", "cancel?map=" .. map.number)))
    run.input:write "print 'after'\n"
    run.input:close()
    run.input = nil
    local code, out, errors = run:finish()
    contains(page:rest(), "event: end")
    contains(out, "55\n", "210\n", "after\n")
    contains(errors, "the map was cancelled")
    assert.equal(0, code)
  end)

  it("is at the port that is asked for, also when it is quiet, and with a trace and a report", function()
    local first = start([[wait_for "go"]], "--quiet --dashboard --trace t.json --report r.html")
    local done = shell.run(("$T --dashboard %d job.lua"):format(first.port), { ["job.lua"] = "print 'runs'" })
    assert.same({ 1, "", ("tidepool: cannot start: the dashboard cannot listen at 127.0.0.1:%d: Address already in use\n"):format(first.port) },
      { done.code, done.stdout, done.stderr })
    first:tell "go"
    assert.same({ 0, "", "" }, { first:finish() })
    contains(first:said "t.json", "process_name")
    contains(first:said "r.html", "<html")
    done = shell.run(("$T --dashboard=%d job.lua 7"):format(first.port), { ["job.lua"] = "print('runs', ...)" })
    assert.same({ 0, "runs\t7\n" }, { done.code, done.stdout })
    contains(done.stderr, ("at http://127.0.0.1:%d/"):format(first.port))
    done = shell.run(("$T run job.lua --dashboard %d"):format(first.port), { ["job.lua"] = [[
      require("tidepool").App("x"):main(function() print "runs" end)]] })
    assert.same({ 0, "runs\n" }, { done.code, done.stdout })
    contains(done.stderr, ("at http://127.0.0.1:%d/"):format(first.port))
  end)

  it("ends with a script that is interrupted", function()
    local run = start [[
      local f = app:func { name = "f" } (function(x) nap(5) return x end)
      local function endless() local n = 0 return function() n = n + 1 return n end end
      for _ in f:map(endless()) do end]]
    local page = run:listen()
    state_that(page, "a map", function(s) return #s.open_maps == 1 end)
    os.execute(("kill -INT $(cat %s/pid)"):format(run.dir))
    local code, _, errors = run:finish()
    assert.equal(130, code)
    contains(errors, "interrupted")
    contains(page:rest(), "event: end")
  end)
end)

describe("--dashboard that cannot be", function()
  it("names the package where there is no libmicrohttpd, and refuses what is no port", function()
    -- a file that is no library stands for one that is not there
    local done = shell.run("LD_LIBRARY_PATH=. $T --dashboard job.lua", { ["job.lua"] = "print 'runs'", ["libmicrohttpd.so.12"] = "" })
    assert.same({ 1, "", "tidepool: cannot start: --dashboard needs libmicrohttpd (libmicrohttpd.so.12), which is not installed: " ..
      "on Debian, apt install libmicrohttpd12\n" }, { done.code, done.stdout, done.stderr })
    for _, words in ipairs { "=0x50", "=", "=65536", " 65536", "=999999999999", "=-1", "=any" } do
      done = shell.run(("$T --dashboard%s job.lua"):format(words), { ["job.lua"] = "" })
      assert.equal(2, done.code, words)
      contains(done.stderr, "tidepool: --dashboard takes a port from 1 to 65535, or none for any that is free, not ")
    end
    done = shell.run "$T --dashbord job.lua"
    contains(done.stderr, "did you mean --dashboard?")
  end)
end)
