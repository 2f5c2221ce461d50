--- tidepool.lines: lines of files, and fields of CSV, as inputs.

local tidepool = require "tidepool"
local executors = require "tidepool.engine.executors"
local support = require "tests.support"

local collect, contains = support.collect, support.contains

local function file_of(text)
  local path = support.temp_path()
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
  return path
end

--- The lines of a file, cut by hand: io.lines of LuaJIT loses what is behind a zero byte.
local function plain(path)
  local list = { n = 0 }
  for line, stop in support.read_file(path):gmatch "([^\n]*)(\n?)" do
    if line == "" and stop == "" then break end
    list.n = list.n + 1
    list[list.n] = line
  end
  return list
end

--- A text with lines of all kinds: empty ones, long ones, with zero bytes and carriage returns;
-- longer than a few chunks.
local function mixed_text(n)
  local random = tidepool.random(23)
  local lines = {}
  for i = 1, n do
    local kind = random(8)
    lines[i] = kind == 1 and "" or kind == 2 and ("x"):rep(random(3000)) or kind == 3 and "a\0b\r" or ("%d of %d"):format(i, random(1e6))
  end
  return table.concat(lines, "\n")
end

for _, executor in ipairs(executors.that "runs_lua") do
  describe("tidepool.lines on the executor " .. executor.name, function()
    if executor.far and not os.getenv "TIDEPOOL_ENGINE" then
      pending "no engine: tests/cluster/promises_spec.lua has one"
      return
    end
    local app = tidepool.App("lines", { executor = executor.name })
    local same = app:func(function(...) return ... end)
    local joined = app:func(function(...)
      local fields = {}
      for i = 1, select("#", ...) do fields[i] = "<" .. select(i, ...) .. ">" end
      return table.concat(fields)
    end)

    after_each(function() support.check_pool() end)

    it("gives a map the lines that a loop gives, with their numbers", function()
      for _, text in ipairs { "", "\n", "a", "a\n", "\n\na\n\n", "a\nb", mixed_text(5000), mixed_text(300) .. "\n" } do
        local path = file_of(text)
        local expected, got = plain(path), { n = 0 }
        for i, line in same:map(tidepool.lines(path)) do
          got.n = got.n + 1
          assert.equal(got.n, i)
          got[i] = line
        end
        assert.same(expected, got)
        assert.same(expected, same:map(tidepool.lines(path)):list())
      end
    end)

    it("may be waited for out of order, in a small window", function()
      local path = file_of(mixed_text(500))
      local expected = plain(path)
      local got, n = collect(same:map(tidepool.lines(path), { ordered = false, window = 3 }))
      assert.equal(500, n)
      for i = 1, n do assert.equal(expected[i], got[i]) end
    end)

    it("goes from one file to the next", function()
      local a, b, none = file_of "1\n2", file_of "3\n", file_of ""
      assert.same({ "1", "2", "3", "1", "2", n = 5 }, same:map(tidepool.lines { a, b, none, a }):list())
      assert.equal(0, same:map(tidepool.lines { none }):list().n)
    end)

    it("blames the line that fails, after the results before it", function()
      local lines = {}
      for i = 1, 3000 do lines[i] = tostring(i) end
      local path = file_of(table.concat(lines, "\n"))
      local picky = app:func(function(line)
        if line == "2000" then error "not this one" end
        return tonumber(line)
      end)
      local _, n, err = collect(picky:map(tidepool.lines(path)))
      assert.equal(1999, n)
      assert.equal(2000, err.index)
      contains(err.message, "not this one")
      local list = picky:map(tidepool.lines(path), { return_exceptions = true }):list()
      assert.equal(3000, list.n)
      assert.equal(2000, list[2000].index)
      assert.equal(3000, list[3000])
      assert.equal(3000 * 3001 / 2 - 2000, picky:map(tidepool.lines(path), { on_error = function() return 0 end }):sum())
    end)

    it("tries lines again, and reduces and discards results", function()
      local path = file_of "1\n2\n3"
      local once = app:func { retries = 1 } (function(line)
        if tidepool.current().attempt == 1 then error "again" end
        return tonumber(line)
      end)
      assert.equal(6, once:map(tidepool.lines(path)):sum())
      assert.same({ ok = 3, failed = 0 }, once:for_each(tidepool.lines(path)))
    end)

    it("spreads the fields of CSV over a starmap's arguments", function()
      local path = file_of('a,"b ""x"", y",c\r\n1,"two\nlines",3\r\n"",x"y,"q"t\r\nlast\n,,\n\n')
      assert.same({ '<a><b "x", y><c>', "<1><two\nlines><3>", '<><x"y><qt>', "<last>", "<><><>", "<>", n = 6 },
        joined:starmap(tidepool.lines(path, { columns = "," })):list())
      local count = app:func(function(fields) return #fields, fields[2] end)
      local n, second = count:map(tidepool.lines(path, { columns = "," })):list()
      assert.same({ 3, 3, 3, 1, 3, 1, n = 6 }, n)
      assert.same({ 'b "x", y', "two\nlines", 'x"y', [5] = "", n = 6 }, second)
    end)

    it("takes wide lines, and as many fields as each has", function()
      local lines, expected = {}, { n = 400 }
      for i = 1, 400 do
        local fields = {}
        for c = 1, i % 20 + 1 do fields[c] = i .. "." .. c end
        lines[i] = table.concat(fields, "\t")
        expected[i] = "<" .. table.concat(fields, "><") .. ">"
      end
      assert.same(expected, joined:starmap(tidepool.lines(file_of(table.concat(lines, "\n")), { columns = "\t" })):list())
    end)

    it("says where a quote is not closed, after the lines before it", function()
      for _, text in ipairs { 'a,"b\nc,d\n', 'a,"', 'a,"b""', '"' } do
        local path = file_of("x,y\n" .. text)
        local got, n, err = collect(joined:starmap(tidepool.lines(path, { columns = "," })))
        assert.same({ { "<x><y>" }, 1, path .. ": line 2 has a quote that is not closed" }, { got, n, err.message })
      end
      assert.same({ '<a><b>', '<"">', n = 2 }, joined:starmap(tidepool.lines(file_of 'a,"b"\n""""""', { columns = "," })):list())
    end)

    it("takes quotes and ends of lines wherever a chunk of the file ends", function()
      local lines, expected = {}, { n = 8000 }
      for i = 1, 8000 do
        local inner = ("x"):rep(i % 97) .. (i % 3 == 0 and '""' or "\n") .. i
        lines[i] = ('%d,"%s"'):format(i, inner)
        expected[i] = ("<%d><%s>"):format(i, (inner:gsub('""', '"')))
      end
      local path = file_of(table.concat(lines, "\r\n"))
      assert.same(expected, joined:starmap(tidepool.lines(path, { columns = "," })):list())
    end)

    it("takes other separators, of several bytes too", function()
      assert.same({ "a\n", "b", n = 2 }, same:map(tidepool.lines(file_of "a\n\0b\0", { separator = "\0" })):list())
      assert.same({ "a", "-b", "", n = 3 }, same:map(tidepool.lines(file_of "a----b------", { separator = "---" })):list())
      assert.same({ "<1><2>", "<3>", n = 2 }, joined:starmap(tidepool.lines(file_of "1::2;;3", { separator = ";;", columns = "::" })):list())
    end)

    it("takes an open file from where it is", function()
      local file = assert(io.open(file_of(mixed_text(2000))))
      local first = file:read "*l"
      local expected = plain(file_of(mixed_text(2000)))
      local list = same:map(tidepool.lines(file)):list()
      assert.equal(1999, list.n)
      table.insert(list, 1, first)
      list.n = 2000
      assert.same(expected, list)
      file:close()
      local pipe = io.popen "seq 50000"
      assert.equal(50000 * 50001 / 2, app:func(function(x) return tonumber(x) end):map(tidepool.lines(pipe)):sum())
      pipe:close()
    end)

    it("refuses an endless line, after the lines before it", function()
      local path = file_of("short\n" .. ("x"):rep(300000) .. "\nrest")
      local got, n, err = collect(same:map(tidepool.lines(path, { limit = "100k" })))
      assert.equal(1, n)
      assert.equal("short", got[1])
      assert.equal(path .. ": line 2 is longer than the limit of 102400 bytes", err.message)
      assert.equal(3, same:map(tidepool.lines(path, { limit = 300000 })):list().n)
      _, n, err = collect(joined:starmap(tidepool.lines(file_of('a,b\n"' .. ("x,\n"):rep(5000)), { limit = 10000, columns = "," })))
      assert.equal(1, n)
      contains(err.message, ": line 2 is longer", "is a quote not closed?")
    end)

    it("goes side by side with other inputs", function()
      local path = file_of "a\nb\nc"
      assert.same({ "<a><1><z>", "<b><2><z>", n = 2 }, joined:map(tidepool.lines(path), { 1, 2 }, tidepool.const "z"):list())
    end)
  end)
end

describe("tidepool.lines", function()
  local app = tidepool.App "lines"
  local same = app:func { name = "same" } (function(...) return ... end)

  it("is a loop too, and begins anew each time", function()
    local path = file_of "a,1\nb,2"
    local lines = tidepool.lines(path)
    for _ = 1, 2 do
      local got = {}
      for line in lines do got[#got + 1] = line end
      assert.same({ "a,1", "b,2" }, got)
      assert.equal(2, same:map(lines):list().n)
    end
    local got = {}
    for fields in tidepool.lines(path, { columns = "," }) do got[#got + 1] = fields end
    assert.same({ { "a", "1" }, { "b", "2" } }, got)
  end)

  it("works in mapped functions and tasks, and travels", function()
    local path = file_of "1\n2\n3"
    local inner = app:func(function(line) return tonumber(line) end)
    local outer = app:func(function(lines) return inner:map(lines):sum(), inner:map(tidepool.lines(path)):sum() end)
    local a, b = outer:remote(tidepool.lines(path))
    assert.same({ 6, 6 }, { a, b })
    assert.equal(6, tidepool.async(function() return inner:map(tidepool.lines(path)):sum() end):get())
  end)

  it("gives a task all lines, also when there are more than the window takes", function()
    local path = file_of(("line\n"):rep(70000))
    local count = app:func(function() return 1 end)
    assert.equal(70000, tidepool.async(function() return count:map(tidepool.lines(path)):sum() end):get())
    path = file_of(("1\n"):rep(50))
    for _, window in ipairs { 1, 2, 7 } do
      assert.equal(50, #tidepool.async(function() return (same:map(tidepool.lines(path), { window = window }):list()) end):get())
    end
  end)

  it("is bounded by the window, and lets lines of a pipe through as they come", function()
    local path = support.temp_path()
    os.execute("mkfifo " .. path)
    local writer = io.popen(("exec 3>%s; echo one >&3; while ! [ -e %s.go ]; do sleep 0.01; done; echo two >&3"):format(path, path))
    local results = same:map(tidepool.lines(path))
    assert.same({ 1, "one" }, { results:next() })
    support.note(path .. ".go", "")
    assert.same({ 2, "two" }, { results:next() })
    assert.same({}, { results:next() })
    writer:close()
  end)

  it("lets the others go on while a task waits for lines", function()
    local path = support.temp_path()
    os.execute("mkfifo " .. path)
    local writer = io.popen(("exec 3>%s; while ! [ -e %s.go ]; do sleep 0.01; done; echo one >&3"):format(path, path))
    local reading = tidepool.async(function() return same:map(tidepool.lines(path)):list()[1] end)
    tidepool.async(function()
      tidepool.sleep(0.03)
      support.note(path .. ".go", "")
    end)
    assert.equal("one", reading:get())
    writer:close()
  end)

  it("is resumed from a journal", function()
    local path, journal, noted = file_of("a\n" .. ("b"):rep(5000) .. "\nc"), support.temp_path(), support.temp_path()
    local script = ([[
      local tidepool = require "tidepool"
      local f = tidepool.App "j":func { name = "length" } (function(line)
        local file = io.open(%q, "a")
        file:write(#line, "\n")
        file:close()
        return #line
      end)
      print(f:map(tidepool.lines(%q), { journal = %q }):sum())
    ]]):format(noted, path, journal)
    for _ = 1, 2 do assert.equal("5002\n", support.run_script(script).stdout) end
    assert.equal(3, #support.notes(noted))
  end)

  it("says what is wrong, at the user's line", function()
    local path = file_of "a"
    local function refused(fn, ...) contains(support.mistake(fn), "tests/engine/lines_spec.lua:", ...) end
    refused(function() tidepool.lines(path .. ".no") end, "tidepool.lines: cannot read " .. path .. ".no: No such file or directory")
    refused(function() tidepool.lines "/tmp" end, "tidepool.lines: cannot read /tmp: Is a directory")
    refused(function() tidepool.lines() end, "expected a path, a list of paths or an open file, got nil")
    refused(function() tidepool.lines { path, 5 } end, "path 2 is 5")
    refused(function() tidepool.lines(path, { seperator = "," }) end, "unknown option 'seperator' (did you mean 'separator'?)")
    refused(function() tidepool.lines(path, { separator = "" }) end, "option 'separator' must be a string that is not empty")
    refused(function() tidepool.lines(path, { columns = '"' }) end, "option 'columns' cannot be or follow a quote: fields may be in quotes")
    refused(function() tidepool.lines(path, { columns = "\n" }) end, "option 'columns' is what ends a line")
    refused(function() tidepool.lines(path, { limit = "1G" }) end, "option 'limit' is at most 512M")
    refused(function() same:starmap(tidepool.lines(path)) end, 'not cut into fields: tidepool.lines(path, { columns = "," })')
    local file = io.open(path)
    file:close()
    refused(function() tidepool.lines(file) end, "the file is closed")
  end)

  it("says that a file went away, after the lines before it", function()
    local a, b = file_of "1\n2\n", file_of "3\n"
    local lines = tidepool.lines { a, b }
    os.remove(b)
    local got, n, err = collect(same:map(lines))
    assert.equal(2, n)
    assert.same({ "1", "2" }, got)
    assert.equal(("cannot read %s: No such file or directory"):format(b), err.message)
  end)
end)
