-- What happens when a function fails: the default, failures among the results, values instead of
-- failures, retries.
--
--   tidepool run examples/errors.lua
--
-- prints: By default the error is raised at its place, after the results before it:
-- prints: 1...0
-- prints: 2...1
-- prints: false...error...3...examples/errors.lua:...: ohno
-- prints: With return_exceptions it takes its place among the results:
-- prints: 1...0
-- prints: 2...1
-- prints: 3...failure: examples/errors.lua:...: ohno
-- prints: Any value can be raised, and on_error can put another in its place:
-- prints: 1...charged 50
-- prints: 2...refused with code 402
-- prints: Retries:
-- prints: worked, at attempt 3

local tidepool = require "tidepool"
local app = tidepool.App "errors"

local check = app:func {} (function(x)
  if x == 2 then error "ohno" end
  return x
end)

local charge = app:func {} (function(amount)
  if amount > 100 then error { code = 402, amount = amount } end
  return "charged " .. amount
end)

-- Fails twice, then works: tidepool.current() tells which attempt this is.
local flaky = app:func { retries = { max = 3, initial_delay = 0.01 } } (function(x)
  local attempt = tidepool.current().attempt
  if attempt < 3 then error "not yet" end
  return ("%s, at attempt %d"):format(x, attempt)
end)

app:main(function()
  print "By default the error is raised at its place, after the results before it:"
  local fine, failure = pcall(function()
    for i, r in check:map { 0, 1, 2, 3 } do print(i, r) end
  end)
  print(fine, failure.kind, failure.index, failure.message)

  print "With return_exceptions it takes its place among the results:"
  for i, r in check:map({ 0, 1, 2 }, { return_exceptions = true }) do
    print(i, tidepool.is_failure(r) and "failure: " .. r.message or r)
  end

  print "Any value can be raised, and on_error can put another in its place:"
  for i, r in charge:map({ 50, 500 }, { on_error = function(f) return "refused with code " .. f.code end }) do
    print(i, r)
  end

  print "Retries:"
  print(flaky:remote "worked")
end)
