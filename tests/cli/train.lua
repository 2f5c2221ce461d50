-- For run_spec.lua: an app with two entries, one of them with a schema, and two functions.
local tidepool = require "tidepool"

local app = tidepool.App "train"

local score = app:func { name = "score" } (function(k, fold)
  return k, { fold = fold or "none" }
end)

app:func { name = "fail" } (function(message)
  error(message or "no message")
end)

local function words(t)
  local out = {}
  for _, name in ipairs { "n", "rounds", "mode", "k", "input", "verbose", "dry_run" } do
    local value = t[name]
    if type(value) == "table" then value = "[" .. table.concat(value, " ") .. "]" end
    out[#out + 1] = name .. "=" .. type(t[name]) .. ":" .. tostring(value)
  end
  out[#out + 1] = "rest=" .. table.concat(t, " ")
  return table.concat(out, "\n")
end

app:main {
  args = {
    n = { 10, "how many", min = 1 },
    rounds = { 2, type = "integer", max = 9 },
    mode = { "fast", "how exact", choices = { "fast", "exact" } },
    k = { { 1, 3, 5 }, "neighbours to try" },
    input = { type = "string", help = "a file" },
    verbose = false,
    dry_run = { true, "changes nothing" },
  },
} (function(args)
  if args.mode == "exact" then
    for _, k in score:map { 7, 8 } do print(k) end
  end
  print(words(args))
end)

app:main { name = "free" } (function(args)
  local names = {}
  for name in pairs(args) do names[#names + 1] = tostring(name) end
  table.sort(names)
  for i, name in ipairs(names) do
    local value = args[tonumber(name) or name]
    names[i] = ("%s=%s:%s"):format(name, type(value), tostring(value))
  end
  print(table.concat(names, " "))
end)

app:main { name = "wrong" } (function() error "boom" end)
