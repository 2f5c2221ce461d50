--- What is seen of a map on a cluster while it runs, and afterwards (not stock: it is the program).

local cjson = require "cjson"
local support = require "tests.support"
local cluster = require "tests.support_cluster"

describe("Of a map on a cluster", function()
  if not cluster.is_possible() or not pcall(require "ffi".load, "libmicrohttpd.so.12") then
    pending "nats-server or libmicrohttpd is not installed"
    return
  end
  local own

  before_each(function() own = cluster.up() end)
  after_each(function() own:down() end)

  it("the page, the progress and the files say what runs on which machine, with the maps inside", function()
    own:worker(2)
    local go, host = support.temp_path(), cluster.capture "uname -n":match "%S+"
    local script = own:start(([[
      local path, tidepool = %q, require "tidepool"
      local app = tidepool.App "job"
      local inner = app:func { name = "inner" } (function(x)
        if x == 3 then require "tests.support".wait_for(path) else tidepool.sleep(0.01) end
        return x
      end)
      local outer = app:func { name = "outer" } (function(x) return inner:map(tidepool.range(10)):sum() + x end)
      local seen
      print(outer:map({ 1, 2 }, { progress = function(s)
        local inside = s.inside
        if inside and inside.done > 0 and inside.maps == 2 and not seen then
          seen = inside.name .. " of " .. inside.total
          require "tests.support".note(path .. ".seen", "seen")
        end
      end }):sum())
      print(seen)]]):format(go), nil, "--dashboard --report DIR/r.html --trace DIR/t.json")
    local address
    support.eventually("an address is printed", function()
      address = (support.read_file(script.dir .. "/err") or ""):match "http://127.0.0.1:(%S+)"
      return address
    end)
    local port, token = address:match "^(%d+)(/.*)$"
    -- a state is a line; the first one in which both items have told of their maps
    local inner = [["function":"inner","host":"%s"]]
    inner = inner:format(host)
    local state = cluster.capture(([[timeout 60 bash -c 'exec 3<>/dev/tcp/127.0.0.1/%s
      printf "GET %sevents HTTP/1.0\r\nHost: 127.0.0.1:%s\r\n\r\n" >&3
      grep -a -m 1 "^data: .*%s.*%s" <&3']]):format(port, token, port, inner:gsub('"', '\\"'), inner:gsub('"', '\\"')))
    support.eventually("the callback has seen both maps", function() return support.read_file(go .. ".seen") end)
    support.note(go, "go")
    local out, status, errors = script.done()
    assert.same({ "113\ninner of 20\n", 0 }, { out, status }, errors)

    state = cjson.decode(state:match "^data: (.*)")
    local names, items = {}, {}
    for _, track in ipairs(state.tracks) do
      for _, o in ipairs(track.open) do
        if track.host == host then names[#names + 1], items[#items + 1] = track.name, o[5] end
      end
    end
    table.sort(names)
    table.sort(items)
    assert.same({ { ("cluster %s 1"):format(host), ("cluster %s 2"):format(host) }, { 1, 2 } }, { names, items })
    local report, trace = support.read_file(script.dir .. "/r.html"), support.read_file(script.dir .. "/t.json")
    support.contains(report, '"workers":2,"maps":3,"items":22', ("cluster %s 1"):format(host))
    support.contains(trace, ("cluster %s 2"):format(host), '"outer #1"', '"outer #2"')
  end)
end)
