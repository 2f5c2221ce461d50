--- A cluster on this machine: what one chunk of work costs, through a NATS server.
--
--     build/tidepool bench/cluster.lua [N [TPF]]
--
-- Starts a server and two workers of its own, with a slot each: chunks of 1 KiB, one item each;
-- items that sleep for 10 ms, and how much longer than a second 200 of them take; calls one after
-- the other. With TPF, the path of the prototype's program (proto-nats/tpf), that runs beside
-- it, on a server with the same settings, in turns, and so do Ray, Dask and joblib where
-- PEERS_PYTHON (python3) has them (`make peers` installs them): the same texts in two processes of
-- this machine.
-- Five rounds, and the median of each figure.

local n = tonumber(arg[1]) or 2000
local tpf = arg[2]
local root = arg[0]:match "^(.*)/bench/[^/]*$" or "."
package.path = root .. "/?.lua;" .. package.path
local cluster = require "tests.support_cluster"
local support = require "tests.support"

-- What a script measures, in a process of its own. A limit keeps a chunk to one item.
local measure = [[
  local tidepool = require "tidepool"
  local uv = require "luv"
  local app = tidepool.App "bench"
  local n = N
  local text = ("x"):rep(1024)
  local f = app:func { concurrency_limit = 100000 } (function(x) return x end)
  local inputs = {}
  for i = 1, n do inputs[i] = text end
  for _ = 1, 2 do f:map(inputs):list() end
  local begun = uv.hrtime()
  f:map(inputs):list()
  local rate = n / ((uv.hrtime() - begun) * 1e-9)
  local work = app:func(function()
    local ffi = require "ffi"
    if not pcall(ffi.typeof, "bench_sleep") then ffi.cdef "typedef int bench_sleep; int usleep(unsigned);" end
    ffi.C.usleep(10000)
  end)
  work:for_each(tidepool.range(100))
  begun = uv.hrtime()
  work:for_each(tidepool.range(200))
  local longer = ((uv.hrtime() - begun) * 1e-9 - 1) * 100
  local g, times = app:func(function(x) return x end), {}
  for i = 1, 200 + n / 4 do
    local at = uv.hrtime()
    g:remote(text)
    if i > 200 then times[#times + 1] = (uv.hrtime() - at) * 1e-3 end
  end
  table.sort(times)
  print(("%.0f %.1f %.0f %.0f"):format(rate, longer, times[math.ceil(#times / 2)], times[math.ceil(#times * 0.99)]))]]

local own = cluster.up()
own:worker(1)
own:worker(1)

local figures = {}

--- Keeps figures of a round, to print their medians.
local function keep(who, ...)
  figures[who] = figures[who] or {}
  for i, figure in ipairs { ... } do
    figures[who][i] = figures[who][i] or {}
    table.insert(figures[who][i], tonumber(figure))
  end
end

local function median(list)
  table.sort(list)
  return list[math.ceil(#list / 2)]
end

local function ours()
  local done = own:run((measure:gsub("N\n", n .. "\n", 1)))
  if done.stderr ~= "" then error(done.stderr) end
  local rate, longer, p50, p99 = done.stdout:match "(%S+) (%S+) (%S+) (%S+)"
  print(("tidepool   %6s chunks/s   remote: p50 %5s us, p99 %5s us   10 ms: %s %% longer"):format(rate, p50, p99, longer))
  keep("tidepool", rate, p50, longer)
end

-- The prototype on a server without users: a coordinator and two workers.
local function theirs()
  local dir, port = support.temp_dir(), own.port + 1
  local function sh(command, ...)
    local pipe = io.popen(("cd %s; "):format(dir) .. command:format(...))
    local text = pipe:read "*a"
    pipe:close()
    return text
  end
  support.write_file(dir .. "/nats.conf", ('listen: "127.0.0.1:%d"\njetstream { store_dir: "%s/js" }\n'):format(port, dir))
  local server = sh("nats-server -c nats.conf >/dev/null 2>&1 & echo $!"):match "%d+"
  support.sleep(1)
  local function coord(chunks, window)
    local workers = sh("for i in 1 2; do %s worker --url nats://127.0.0.1:%d --job j%d --id $i --batch 2 >/dev/null 2>&1 & echo $!; done", tpf, port,
      chunks):gsub("\n", " ")
    local said = sh("%s coord --url nats://127.0.0.1:%d --job j%d --n %d --size 1024 --window %d --await 2 2>&1", tpf, port, chunks, chunks, window)
    sh("kill %s 2>/dev/null", workers)
    return said
  end
  local many, one = coord(n, 0), coord(math.floor(n / 4), 1)
  local rate, p50, p99 = many:match "chunks_per_s=(%d+)" or many, one:match "lat_p50_us=(%d+)" or one, one:match "lat_p99_us=(%d+)"
  print(("prototype  %6s chunks/s   one in flight: p50 %5s us, p99 %5s us"):format(rate, p50, p99))
  keep("prototype", rate, p50)
  sh("kill %s", server)
end

--- One of those that run Python functions (bench/peers/cluster.py). False: it is not installed.
local function peer(name)
  local pipe = io.popen(("%s %s/bench/peers/cluster.py %s %d 2>&1"):format(os.getenv "PEERS_PYTHON" or "python3", root, name, math.floor(n / 4)))
  local text = pipe:read "*a"
  pipe:close()
  local rate, p50, p99 = ("\n" .. text):match "\n(%d+) (%d+) (%d+)\n"
  if not rate then
    print(("%-10s is not there: %s"):format(name, text:match "([^\n]*)%s*$"))
    return false
  end
  print(("%-10s %6s calls/s    one at a time: p50 %5s us, p99 %5s us"):format(name, rate, p50, p99))
  keep(name, rate, p50)
  return true
end

local peers = { "ray", "dask", "joblib" }
for _ = 1, 5 do
  ours()
  if tpf then theirs() end
  for i = #peers, 1, -1 do
    if not peer(peers[i]) then table.remove(peers, i) end
  end
end
own:down()
local t, p = figures.tidepool, figures.prototype
print(("medians: %.0f chunks/s, remote %.0f us, 10 ms: %.1f %% longer"):format(median(t[1]), median(t[2]), median(t[3])))
if p then
  local rate, round = median(p[1]), median(p[2])
  print(("prototype: %.0f chunks/s, %.0f us: %.2f x its chunks, %.2f x its round trip"):format(rate, round,
    median(t[1]) / rate, median(t[2]) / round))
end
for _, name in ipairs(peers) do
  local rate, round = median(figures[name][1]), median(figures[name][2])
  print(("%s: %.0f calls/s, %.0f us: we do %.1f x its calls, in %.2f x its round trip"):format(name, rate, round, median(t[1]) / rate,
    median(t[2]) / round))
end
