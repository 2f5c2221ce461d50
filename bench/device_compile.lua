--- How long a device takes to compile a function that has N elements of an array in its text.
---
---   build/tidepool bench/device_compile.lua [N]
---
--- N is 100 without an argument. Nothing is taken from where compiled programs are kept: each line
--- is a new process with empty caches of its own. Times are the processor's: of a small function,
--- whose start of driver and compiler all have in common, of N reads, of N writes, and
--- of N rounds as hashes have them.

local function text_of(statement, n)
  local lines = {}
  for i = 1, n do lines[i] = statement:gsub("%$", i) end
  return "local a = ... return function(x) local s = x " .. table.concat(lines, " ") .. " return s end"
end

local tidepool = require "tidepool"
local n, statement = tonumber(arg[1]) or 100, arg[2]

if statement then
  local app = tidepool.App "compile"
  local text = text_of(statement, n)
  local f = assert(loadstring(text, text))(tidepool.array("double", 1000))
  app:func { gpu = true } (f):map({ 1, 2, 3 }):list()
  print(("%.2f s"):format(os.clock()))
  return
end

for _, row in ipairs { { "one read", 1, "s = s + a[x + $]" }, { n .. " reads", n, "s = s + a[x + $]" }, { n .. " writes", n, "a[x + $] = s" },
  { n .. " rounds", n, "s = bit.tobit(s + bit.rol(bit.tobit(s * $ + x), $ % 31)) + a[x % 16 + 1]" } } do
  local folder = os.tmpname()
  os.remove(folder)
  local command = ("mkdir -p %s/p && XDG_CACHE_HOME=%s POCL_CACHE_DIR=%s/p ${TIDEPOOL:-build/tidepool} %s %d '%s'; rm -rf %s"):format(folder, folder,
    folder, arg[0], row[2], row[3], folder)
  io.write(("%-12s "):format(row[1]))
  io.flush()
  os.execute(command)
end
