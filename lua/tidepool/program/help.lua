--- What `help(x)` says at the prompt.

local app = require "tidepool.app"
local array = require "tidepool.array"
local call = require "tidepool.call"
local check = require "tidepool.base.check"
local failure = require "tidepool.failure"
local func = require "tidepool.func"
local options = require "tidepool.options"
local results = require "tidepool.results"
local show = require "tidepool.base.show"
local task = require "tidepool.task"

local help = {}

-- Locals, since the session must work whatever its user does to the globals.
local type, pairs, ipairs, next, tostring, select, setmetatable = type, pairs, ipairs, next, tostring, select, setmetatable
local getmetatable, debug, table, io, globals, getinfo = debug.getmetatable, debug, table, io, _G, debug.getinfo

local WIDTH = 80

local overview = [[
Type Lua. An expression is shown; `=` is not needed. Locals stay until the session ends.
  help(x)      about a value: a Function, an app, results, any function    help "retries"   about an option, a method
  Tab          completes names, fields, methods, options      Up, Ctrl-R    earlier lines
  Ctrl-C       stops the running line                         Ctrl-D        ends the session
  _            the last value                                 :time x       how long x takes
  :load FILE   runs a file here: its locals stay, too         :save FILE    writes what was typed as a script
Start with:
  app = tidepool.App "try"
  square = app:func(function(x) return x * x end)
  square:map(tidepool.range(10)):list()]]

-- ---- the reference ----

-- A row: how it is written, and what it does. Its name is the last word before "(", or before the
-- end.
local module_rows = {
  { "tidepool.App(name?, defaults?)", "a group of functions" },
  { "tidepool.range(n), (from, to, step?)", "numbers as inputs" },
  { "tidepool.grid(rows, columns), (planes, ...)", "places as inputs: f(y, x); a shape of arrays" },
  { "tidepool.iter(pairs(t))", "an iterator as inputs" },
  { "tidepool.lines(path or paths, options?)", "lines of files as inputs" },
  { "tidepool.const(value)", "the same value with every input" },
  { "tidepool.array(ctype, n or list, value?)", "numbers that all workers share" },
  { "tidepool.load_array(path)", "an array from a file of NumPy's: .npy" },
  { "tidepool.Dict(entries?)", "shared by all workers: get, put, add, update, pop, pairs" },
  { "tidepool.Queue { capacity = }", "the same: put, get, each, close" },
  { "tidepool.share(value)", "a large constant: encoded once; data() gives it" },
  { "tidepool.is_failure(value)", "is a result a failure?" },
  { "tidepool.null", "JSON's null: the same value in all workers, and cjson.null" },
  { "tidepool.async(fn, ...)", "runs fn as a task: what waits in it lets others go on" },
  { "tidepool.event()", "what somebody sets, and others wait for" },
  { "tidepool.gather(a, b, ...)", "waits for calls, tasks, maps, events: the values of all" },
  { "tidepool.wait(list, options?)", "waits for n of them: the finished and the rest" },
  { "tidepool.as_completed(list)", "iterates over them as they finish" },
  { "tidepool.sleep(seconds)", "waits, and lets the others go on" },
  { "tidepool.step()", "lets others go on without waiting: once a round of your own loop" },
  { "tidepool.loop()", "runs until all tasks and spawned calls are done" },
  { "tidepool.command { words }", "runs a program: { status, stdout, stderr }, or a failure" },
  { "tidepool.current()", "inside a function: which item runs" },
  { "tidepool.random(seed, i?)", "a stream of random numbers, called like math.random" },
  { "tidepool.class(name, metatable)", "objects with that metatable may travel" },
  { "tidepool.devices()", "the OpenCL devices that option gpu can name" },
  { "tidepool.gpu.device(which?)", "a device to drive by hand: buffers and kernels of one's own" },
  { "tidepool.plot(xs, ys?)", "prints a small chart of numbers" },
  { "tidepool.gpu.random(seed, i, draw?)", "a random number in a function for devices: of stream i" },
  { "tidepool.int.mul32(a, b)", "a * b modulo 2^32, exactly, in the range of bit.*" },
  { "tidepool.int.mul64hi(a, b)", "the upper half of the product of two uint64" },
  { "tidepool.trace(path)", "writes what happens to a file for Perfetto; trace:stop()" },
  { "tidepool.span(name, fn, ...)", "calls fn(...): a box of that name in a trace" },
  { "tidepool.mark(name, value?)", "a point in a trace, or of a curve in it" },
  { "tidepool.workers(n?), tidepool.now()", "how many workers there may be; seconds on a clock" },
}

local method_rows = {
  { "f(...)", "runs here and now: plain Lua" },
  { "f:remote(...)", "one call in the pool: its results, or its error" },
  { "f:map(xs, ys, ..., options?)", "one input per position; Results in the order of the inputs" },
  { "f:starmap(lists, options?)", "each item is a list of arguments" },
  { "f:for_each(xs, ..., options?)", "for the effect; { ok =, failed = }" },
  { "f:stream(...)", "the values that it yields, as they come: for v in f:stream(x) do" },
  { "f:flat_map(xs, ..., options?)", "those for each input: for i, v in f:flat_map(xs) do" },
  { "f:spawn(...)", "starts one call: a Call with get, done, cancel" },
  { "f:spawn_map(xs, ..., options?)", "starts a map now; its Results may be read later" },
  { "f:with(options)", "the same function under other options" },
  { "f:stats()", "{ queued, running, done, failed, duration }; of a cache hits, misses" },
  { "f:forget(...)", "its cache forgets this input, or all of them" },
  { "f:opencl()", "the OpenCL C that it is on a device" },
}

local class_rows = {
  { app.App, {
    { "app:func(options)(fn)", "decorates a function; app:func(fn) and app:func(options, fn) work too" },
    { "app:cls(options) { methods }", "functions that share what they have made once per worker" },
    { "app:main(options)(fn)", "what `tidepool run` calls" },
    { "app:setup(fn)", "runs fn in each worker before its first item" },
    { "app:include(other)", "takes over another app's functions" },
  } },
  { results.meta, {
    { "for i, a, b in results do", "the index, and what the function returned" },
    { "results:list(), results:get()", "all of them, a list per return value, with n" },
    { "results:array(ctype?)", "all of them as typed arrays" },
    { "results:buffer()", "all of them as buffers of the device where they are; f:map(buffer) reads one there" },
    { "results:next()", "one step by hand" },
    { "results:sum(), :mean(), :min(), :max()", "of all of them" },
    { "results:histogram(n?)", "prints how they are spread: n bars" },
    { "results:reduce(fn, init)", "folds them, in their order" },
    { "results:cancel()", "stops the map" },
    { "results:done(), results:progress()", "counts, without waiting" },
    { "results:times()", "when each input ran, for how long and where (option times)" },
  } },
  { call.Call, {
    { "call:get(timeout?)", "waits: the results, or the error" },
    { "call:done()", "is it?" },
    { "call:cancel()", "stops it if it can be" },
    { "call:on_done(fn)", "calls fn(call) when it is" },
  } },
  { task.Task, {
    { "task:get(timeout?)", "waits: what its function returned, or its error" },
    { "task:done()", "has it ended?" },
    { "task:cancel()", "raises an error where it waits" },
    { "task:on_done(fn)", "calls fn(task) when it has" },
  } },
  { failure.Failure, {
    { "failure.kind", '"error", "timeout", "crash", "memory", "cancelled", "codec", ...' },
    { "failure.message, .value, .traceback", "what was raised, and where" },
    { "failure.index, .input, .attempts", "which input, its arguments, and how often it was tried" },
  } },
}

-- Classes in modules that may not be loaded: the module's name, and the name of the class in it.
local lazy_class_rows = {
  { "tidepool.event", "Event", {
    { "event:set(...)", "it has happened: who waits goes on" },
    { "event:fail(error)", "it has failed: that is raised where somebody waits" },
    { "event:get(timeout?)", "waits: what it was set to, or its error" },
    { "event:done()", "has it happened, or failed?" },
    { "event:cancel()", "nobody is to wait for it any more" },
    { "event:on_done(fn)", "calls fn(event) when it has" },
  } },
  { "tidepool.gather", "AsCompleted", {
    { "for x in all do", "the next call, task, map or event that is over" },
    { "all:add(x)", "one more to wait for" },
  } },
  { "tidepool.cls", "Class", {
    { "Model(parameters)", "an instance; its methods are Functions: one.predict:map(xs)" },
    { "enter(self), exit(self)", "run once in each worker: before its first method, at its end" },
  } },
  { "tidepool.cls", "Instance", {
    { "one.predict(...), one.predict:map(xs)", "its methods, as Functions" },
    { "one.path", "a parameter, a field of self in the workers" },
  } },
  { "tidepool.share", "Shared", {
    { "data()", "the value, in the script and in the workers" },
  } },
  { "tidepool.store", "Dict", {
    { "dict:get(key, otherwise?)", "a copy of the value" },
    { "dict:put(key, value, { if_absent = }?)", "sets it; was it put?" },
    { "dict:add(key, n?)", "adds to a number, in one step; the sum" },
    { "dict:update(key, fn, ...)", "sets it to fn(value, ...), in one step for all others" },
    { "dict:pop(key)", "takes it out, and gives it" },
    { "#dict, dict:pairs(), dict:table()", "how many; all as they are now" },
  } },
  { "tidepool.store", "Queue", {
    { "queue:put(value, timeout?)", "waits for room; was there any in time?" },
    { "queue:get(timeout?)", "waits for the first value; nil when the queue is closed and empty" },
    { "queue:each()", "for value in queue:each() do: until it is closed" },
    { "queue:close(), queue:is_closed(), #queue", "nothing more goes in; how many are there" },
  } },
  { "tidepool.trace", "Trace", {
    { "trace:stop()", "ends the file; nil and why when not all could be written" },
  } },
  { "tidepool.generator", "Stream", {
    { "for v in f:stream(x) do", "the values, as they come" },
    { "stream:next()", "one step by hand" },
    { "stream:cancel()", "stops the function that gives them" },
  } },
  { "tidepool.stream", "Random", {
    { "random(), (m), (m, n)", "the next number, as math.random gives it" },
  } },
  { "tidepool.device.device", "Device", {
    { "device:buffer(array)", "its elements in the device's memory" },
    { "device:buffer(ctype, n or list)", "zeros, or the list's numbers, there" },
    { "device:kernel(source, name or options?)", "a kernel in OpenCL C, to be called" },
    { "device:kernel_file(path, name or options?)", "the same of a file" },
    { "device:image(ctype, shape, elements?)", "an image, for kernels that sample" },
    { "device:queue()", "another queue, whose work runs beside the rest" },
    { "device:has(extension)", "does it have that extension of OpenCL?" },
    { "queue:after(other)", "begins when what the other one was given has run" },
    { "device:wait()", "until all that was started has run" },
  } },
  { "tidepool.device.device", "Buffer", {
    { "buffer:read(into?, at?)", "the elements, in an array" },
    { "buffer:write(from?, at?)", "sets them: to an array's, a list's, another buffer's" },
    { "buffer:fill(value)", "sets all of them to one number" },
    { "buffer:copy()", "a new buffer with the same elements" },
    { "buffer:slice(i, j?)", "the elements i to j, as a buffer that shares their memory" },
    { "buffer:as(ctype)", "the same memory as elements of another type" },
    { "buffer:on(queue)", "the same buffer, for another queue" },
    { "buffer:sum(), :mean(), :min(), :max()", "of its elements, on the device" },
    { "buffer:reduce(fn, init)", "folds them there" },
  } },
  { "tidepool.device.device", "Kernel", {
    { "kernel(global_size, ...)", "starts it, with an argument for each parameter" },
    { "kernel:time()", "seconds that its last call took on the device" },
    { "kernel:on(queue)", "the same kernel, for another queue" },
  } },
  { "tidepool.device.images", "Image", {
    { "image:read(into?)", "all elements, in an array" },
    { "image:write(from)", "sets them to an array's or a list's" },
  } },
}

local array_rows = {
  { "a[i], #a", "elements, from 1; checked" },
  { "a:slice(i, j)", "a view of the same memory" },
  { "a:fill(v)", "sets all elements" },
  { "a:copy(), a:list()", "another array; a list" },
  { "for i, x in a:each() do", "its elements; so does ipairs(a)" },
  { "a:sum(), :mean(), :min(), :max()", "of all elements" },
  { "a:argmin(), :argmax()", "where the least or greatest is" },
  { "a:sort(comes_before?)", "in its place, NaNs last" },
  { "a:map(fn, ctype?)", "fn of each element, here; f:map(a) in all workers" },
  { "a + b, 2 * a, ...", "a new array, element by element" },
  { "a:add(i, v), :max(i, v), :min(i, v)", "changes an element in one step, whoever else does" },
  { "a:compare_and_swap(i, old, new)", "sets it if it is the old one; did it?" },
  { "a:save(path)", "a file for NumPy: .npy" },
  { "a:image(path)", "a matrix as a picture in grey: .png" },
  { "a:reshape(rows, columns)", "the same memory as a matrix" },
  { "a:at(y, x, border?), a:set(y, x, v)", "an element of a matrix; so are a[{ y, x }]" },
  { "a:row(y), a:plane(z)", "a row of a matrix, or a plane: a view" },
  { "a.rows, a.columns, a.planes", "how many there are" },
  { "a.ctype, a.data", "the element type; the FFI pointer, 0-based" },
}

-- ---- texts ----

local function lines_of(rows)
  local out = {}
  for i, row in ipairs(rows) do out[i] = ("  %-38s %s"):format(row[1], row[2]) end
  return table.concat(out, "\n")
end

--- The text in lines of at most WIDTH columns.
local function wrapped(text)
  local lines, line = {}, nil
  for word in text:gmatch "%S+" do
    if line and #line + #word >= WIDTH then
      lines[#lines + 1] = line
      line = nil
    end
    line = line and line .. " " .. word or word
  end
  lines[#lines + 1] = line
  return table.concat(lines, "\n  ")
end

--- The class of a row of lazy_class_rows, if its module is loaded.
local function class_of(row)
  local module = globals.package and globals.package.loaded[row[1]]
  return module and module[row[2]] or nil
end

--- The module tidepool.gpu, if it is loaded.
local function loaded_gpu()
  return globals.package and globals.package.loaded["tidepool.device.gpu"]
end

--- The same of tidepool.int.
local function loaded_int()
  return globals.package and globals.package.loaded["tidepool.int"]
end

--- The rows about a function or method of that name, about the methods of what has that name
--- ("buffer"), or about what takes a field of that name ("capacity").
local function rows_named(name)
  local found = {}
  local all = { module_rows, method_rows, array_rows }
  for _, class in ipairs(class_rows) do all[#all + 1] = class[2] end
  for _, class in ipairs(lazy_class_rows) do all[#all + 1] = class[3] end
  for _, pattern in ipairs { "[.:]" .. name .. "%f[^%w_]", "^" .. name .. "[:.(]", "[{ ]" .. name .. " =" } do
    for _, rows in ipairs(all) do
      for _, row in ipairs(rows) do
        if row[1]:find(pattern) and not found[row] then
          found[#found + 1] = row
          found[row] = true
        end
      end
    end
  end
  return found
end

--- The name of a function: "string.format" for the standard library, "map" for one of ours; nil for
--- others. And whether it is ours.
local function known_name(fn)
  local all, gpu = { globals.package and globals.package.loaded.tidepool or {}, func.methods, array.methods, app.App, results.methods }, loaded_gpu()
  for _, class in ipairs(class_rows) do all[#all + 1] = class[1] end
  for _, class in ipairs(lazy_class_rows) do
    local found = class_of(class)
    all[#all + 1] = found
    if found and type(found.__index) == "table" then all[#all + 1] = found.__index end
  end
  if gpu then all[#all + 1] = { device = gpu.device, random = gpu.random } end
  all[#all + 1] = loaded_int()
  for _, of in ipairs(all) do
    for name, each in next, of do
      if each == fn and type(name) == "string" then return name, true end
    end
  end
  for name, each in pairs(globals) do
    if each == fn then return name end
  end
  for library, of in pairs(globals.package and globals.package.loaded or {}) do
    for name, each in next, type(of) == "table" and of or {} do
      if each == fn then return tostring(library) .. "." .. tostring(name) end
    end
  end
end

--- Where a function is, its parameters, and the comment above it.
local function describe_function(fn)
  local info = getinfo(fn, "Su")
  local name, is_ours = known_name(fn)
  local rows = is_ours and rows_named(name) or {}
  if #rows > 0 then return lines_of(rows) end
  if info.what == "C" or name and check.is_ours(info.source) then
    return name and name .. ": a function of the standard library" or tostring(fn)
  end
  local names = {}
  for i = 1, info.nparams do names[i] = debug.getlocal(fn, i) end
  if info.isvararg then names[#names + 1] = "..." end
  local text = ("function(%s)  %s:%d"):format(table.concat(names, ", "), info.short_src, info.linedefined)
  local path = info.source:match "^@(.*)"
  local file = path and io.open(path)
  if not file then return text end
  local comment, number = {}, 0
  for line in file:lines() do
    number = number + 1
    if number == info.linedefined then break end
    if line:find "^%s*%-%-" then
      comment[#comment + 1] = line:match "^%s*(%-%-.*)"
    elseif not line:find ":func%f[^%w_]" then
      comment = {}
    end
  end
  file:close()
  return #comment > 0 and table.concat(comment, "\n") .. "\n" .. text or text
end

-- Where options are allowed.
local places = {
  { options.of_functions, "an option of functions (app:func, app:cls, f:with, tidepool.App)" },
  { options.of_calls, "an option of map, starmap, spawn_map, flat_map and for_each" },
  { options.of_for_each, "an option of for_each" },
  { options.of_lines, "an option of tidepool.lines" },
  { options.of_gather, "an option of tidepool.gather" },
  { options.of_wait, "an option of tidepool.wait" },
  { options.of_kernels, "an option of device:kernel and device:kernel_file" },
}

local function describe_option(row, where)
  if row.alias_of then return ("%s: the same as %s"):format(row[1], row.alias_of) end
  return wrapped(("%s: %s. %s%s."):format(row[1], where, row[3]:sub(1, 1):upper(), row[3]:sub(2)))
end

--- About a name: options first, then functions and methods.
local function describe_name(name)
  local texts, seen = {}, {}
  for _, place in ipairs(places) do
    for _, row in ipairs(place[1]) do
      if row[1] == name and not seen[row] then
        texts[#texts + 1] = describe_option(row, place[2])
        seen[row] = true
      end
    end
  end
  local rows = name:find "^[%w_]+$" and rows_named(name) or {}
  if #rows > 0 then texts[#texts + 1] = lines_of(rows) end
  if #texts > 0 then return table.concat(texts, "\n") end
  return ("There is no option or method %q. help() says what else there is."):format(name)
end

--- What `help(x)` shows.
---@return string
function help.text(...)
  local value = ...
  if select("#", ...) == 0 or value == help.show then return overview end
  if type(value) == "string" then return describe_name(value) end
  if value ~= nil and globals.package and value == globals.package.loaded.tidepool then return lines_of(module_rows) end
  if value ~= nil and value == loaded_gpu() then return lines_of(rows_named "gpu") end
  if value ~= nil and value == loaded_int() then return lines_of(rows_named "int") end
  if func.is_function(value) then
    return ("%s: %s\n%s\n%s"):format(value.name, describe_function(value.raw), "options: " .. show.value(value.options), lines_of(method_rows))
  elseif type(value) == "function" then
    return describe_function(value)
  elseif array.type_of(value) then
    return tostring(value) .. "\n" .. lines_of(array_rows)
  end
  local mt = getmetatable(value)
  for _, class in ipairs(class_rows) do
    if mt == class[1] then return tostring(value) .. "\n" .. lines_of(class[2]) end
  end
  for _, class in ipairs(lazy_class_rows) do
    if mt ~= nil and mt == class_of(class) then return tostring(value) .. "\n" .. lines_of(class[3]) end
  end
  return ("%s: %s"):format(type(value), show.value(value, { depth = 2, items = 20 }))
end

--- The global `help` of a session: help(x), or help alone.
help.show = setmetatable({}, {
  __call = function(_, ...) io.stdout:write(help.text(...), "\n") end,
  __tostring = function() return overview end,
})

return help
