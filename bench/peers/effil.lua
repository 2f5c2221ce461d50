--- effil: two threads and channels, in any order.

local effil = require "effil"

dofile(arg[0]:match "^(.*/)" .. "work.lua")(function(f, inputs, take)
  local to, from = effil.channel(), effil.channel()
  local start = effil.thread(function(call, incoming, outgoing)
    while true do
      local x = incoming:pop()
      if x == false then return end
      outgoing:push(call(x))
    end
  end)
  local running = { start(f, to, from), start(f, to, from) }
  for i = 1, #inputs do to:push(inputs[i]) end
  for _ = 1, #inputs do take(from:pop()) end
  for _ = 1, #running do to:push(false) end
  for _, thread in ipairs(running) do thread:wait() end
end, arg)
