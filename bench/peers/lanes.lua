--- Lanes: two lanes and lindas, in any order.

local lanes = require "lanes".configure()

dofile(arg[0]:match "^(.*/)" .. "work.lua")(function(f, inputs, take)
  local linda = lanes.linda()
  local start = lanes.gen("*", function()
    while true do
      local _, x = linda:receive "in"
      if x == "stop" then return true end
      linda:send("out", f(x))
    end
  end)
  local running = { start(), start() }
  for i = 1, #inputs do linda:send("in", inputs[i]) end
  for _ = 1, #inputs do
    local _, y = linda:receive "out"
    take(y)
  end
  for _ = 1, #running do linda:send("in", "stop") end
  for _, lane in ipairs(running) do lane:join() end
end, arg)
