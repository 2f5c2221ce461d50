--- The promises (tests/promises.lua) on the executor "cluster" (not stock: it runs the program)
-- with a real server and two workers, as if they were on two machines.

local support = require "tests.support"
local cluster = require "tests.support_cluster"

describe("On a cluster", function()
  it("all promises hold", function()
    if not cluster.is_possible() then return pending "nats-server is not installed" end
    local own = cluster.up()
    finally(function() own:down() end)
    own:worker(2)
    own:worker(2, nil, "TIDEPOOL_OPENCL=/nowhere") -- it has no device
    local log = support.temp_path()
    os.execute(("%s timeout -k 5 600 %s /usr/bin/busted -o TAP --filter 'n the executor cluster' " ..
      "tests/promises_spec.lua tests/engine/lines_spec.lua tests/api/stream_spec.lua >%s 2>&1")
      :format(own:environment(), support.binary, log))
    local text = support.read_file(log)
    local n, passed = tonumber(text:match "\n1%.%.(%d+)"), 0
    for _ in text:gmatch "\nok %d+" do passed = passed + 1 end
    assert.is_nil(text:match "not ok[^\n]*\n.*", text)
    assert.is_true(n and n >= 80 and passed + (text:find "^ok" and 1 or 0) == n, text)
  end)
end)
