--- W2: small records in, the same with a field added out.

local tidepool = require "tidepool"

return function(bench)
  local n = bench.size(50000, 2000)
  local enrich = tidepool.App "bench":func(function(r)
    r.total = r.v[1] + r.v[2] + r.v[3] + r.id
    return r
  end)
  local records = {}
  for i = 1, n do records[i] = { id = i, name = "record " .. i, v = { 1, 2, 3 } } end

  bench.compare {
    id = "W2", what = "records {id=, name=, v={1,2,3}}, field added", unit = "us a record", per = n,
    at_most = 1.0,
    floor_is = "serial loop, new tables",
    -- A new table for each, as in the map.
    floor = function()
      local f, out = enrich.raw, {}
      for i = 1, n do
        local r = records[i]
        out[i] = f { id = r.id, name = r.name, v = { r.v[1], r.v[2], r.v[3] } }
      end
      return out
    end,
    run = function() return enrich:map(records):list() end,
    sum = function(list)
      local s = 0
      for i = 1, n do
        local r = list[i]
        s = s + (r.total + #r.name + r.name:byte(-1) + #r.v + (r.id == i and 1 or 0)) * (i % 7)
      end
      return s
    end,
  }
end
