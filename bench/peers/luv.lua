--- luv.new_work (Debian's lua-luv in luajit, or Neovim's vim.loop): a callback per call, in any
--- order. Only numbers, strings and booleans travel; LuaJIT's string.buffer carries records.

local buffer = require "string.buffer"
local uv = vim and vim.loop or require "luv"
local here = vim and vim.env.PEERS or arg[0]:match "^(.*/)"
local arguments = vim and { vim.env.PEER_WORKLOAD, vim.env.PEER_N } or arg

--- One call on a thread whose argument and result are encoded.
local function call_encoded(text, code)
  local buffer_there = require "string.buffer"
  _G.peer_function = _G.peer_function or loadstring(code) -- luacheck: ignore
  return buffer_there.encode(_G.peer_function(buffer_there.decode(text))) -- luacheck: ignore
end

dofile(here .. "work.lua")(function(f, inputs, take)
  local is_plain = type(inputs[1]) ~= "table"
  local done = 0
  local work = uv.new_work(is_plain and f or call_encoded, function(y)
    take(is_plain and y or buffer.decode(y))
    done = done + 1
  end)
  local code = string.dump(f)
  for i = 1, #inputs do
    if is_plain then work:queue(inputs[i]) else work:queue(buffer.encode(inputs[i]), code) end
  end
  if vim then
    vim.wait(600000, function() return done == #inputs end, 1)
  else
    uv.run()
  end
end, arguments)
