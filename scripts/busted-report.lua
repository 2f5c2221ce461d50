--- busted's output handler for scripts/run-tests: one JSON object a line, in the file that
-- `-Xoutput FILE` names.
--
--   { event = "start", name = }            a test begins
--   { event = "passed" | "skipped", name = }
--   { event = "failed", name =, where =, message = }
--   { event = "end" }                      all ran
--
-- Each line is written out at once, so that a crash leaves the name of its test. The file is open
-- only meanwhile: processes that tests start would inherit it.

local busted = require "busted"
local base = require "busted.outputHandlers.base"
local cjson = require "cjson"
local pretty = require "pl.pretty"

local function text_of(message)
  if message == nil then return "nil" end
  local metatable = type(message) == "table" and getmetatable(message)
  if type(message) == "table" and not (metatable and metatable.__tostring) then return pretty.write(message) end
  return tostring(message)
end

return function(options)
  local handler = base()

  local function write(record)
    local file = assert(io.open(options.arguments[1], "ab"))
    file:write(cjson.encode(record), "\n")
    file:close()
    return nil, true
  end

  local function write_failure(failure)
    local at = failure.element.trace or failure.trace or {}
    local message = text_of(failure.message)
    local traceback = failure.isError and failure.trace and failure.trace.traceback
    return write {
      event = "failed",
      name = failure.name,
      where = at.short_src and at.short_src .. ":" .. tostring(at.currentline),
      message = traceback and message .. traceback or message,
    }
  end

  busted.subscribe({ "test", "start" }, function(element)
    return write { event = "start", name = handler.getFullName(element) }
  end)

  busted.subscribe({ "test", "end" }, function(element, _, status)
    local name = handler.getFullName(element)
    if status == "success" then return write { event = "passed", name = name } end
    if status == "pending" then return write { event = "skipped", name = name } end
    return write_failure(status == "failure" and handler.failures[#handler.failures] or handler.errors[#handler.errors])
  end)

  --- What goes wrong outside of tests: a file that does not load, a setup or teardown that raises.
  local function on_error(element)
    if element.descriptor == "it" then return nil, true end
    return write_failure(handler.errors[#handler.errors])
  end
  busted.subscribe({ "error" }, on_error)
  busted.subscribe({ "failure" }, on_error)

  busted.subscribe({ "suite", "end" }, function() return write { event = "end" } end)

  return handler
end
