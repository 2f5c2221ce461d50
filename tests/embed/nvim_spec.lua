--- Neovim (not stock): tasks on the editor's loop, and the example plugin.

local support = require "tests.support"

--- Runs Lua code in an editor without a screen; gives what it writes to its standard output, what
-- stands in its messages, and its exit code.
local function in_nvim(code, options)
  local dir = support.temp_dir()
  local file = assert(io.open(dir .. "/test.lua", "w"))
  file:write(("local DIR = %q\n"):format(dir), [[
    local function out(...) io.stdout:write(table.concat(vim.tbl_map(tostring, { ... }), " "), "\n") io.stdout:flush() end
    local function until_true(fn) assert(vim.wait(60000, fn, 5), "it does not happen") end
    local fine, why = xpcall(function()
  ]], code, "\nend, debug.traceback)\nif not fine then out(why) vim.cmd 'cquit 9' end\n", options and options.stays and "" or "vim.cmd 'qa!'\n")
  file:close()
  local command = ("LUA_CPATH='build/module/?.so;;' timeout 400 nvim --headless -u NONE -i NONE --cmd 'set rtp^=examples/nvim' " ..
    "-c 'luafile %s/test.lua' 2>%s/messages; echo \" $?\""):format(dir, dir)
  local pipe = assert(io.popen(command))
  local written, exit = pipe:read("*a"):match "^(.*) (%d+)\n$"
  pipe:close()
  return written, support.read_file(dir .. "/messages"):gsub("\r", ""), tonumber(exit)
end

describe("in Neovim", function()
  if support.sanitized then
    return it("nothing is tested under a sanitizer: the module is not built for it", function() end)
  end

  it("a map in a task goes on while the editor does", function()
    -- The items wait for a file that a timer of the editor's makes: an editor that waited for them
    -- would never make it.
    local written, messages, exit = in_nvim [[
      local tidepool = require "tidepool"
      local gate, got = DIR .. "/gate", {}
      local f = tidepool.App("t"):func(function(x)
        repeat local file = io.open(gate) until file
        return x * x
      end)
      local task = tidepool.async(function()
        for _, y in f:map { 1, 2, 3 } do got[#got + 1] = y end
      end)
      assert(not task:done())
      vim.defer_fn(function() io.open(gate, "w"):close() end, 10)
      until_true(function() return task:done() end)
      out(unpack(got))
    ]]
    assert.equal("1 4 9\n", written .. messages)
    assert.equal(0, exit)
  end)

  it("results reach the editor's functions through vim.schedule", function()
    local written, messages = in_nvim [[
      local tidepool = require "tidepool"
      local f = tidepool.App("t"):func(function(x) return "line " .. x end)
      local n = 0
      tidepool.async(function()
        for i, line in f:map(tidepool.range(100)) do
          vim.schedule(function()
            vim.api.nvim_buf_set_lines(0, i - 1, i, false, { line })
            n = n + 1
          end)
        end
      end)
      until_true(function() return n == 100 end)
      out(#vim.api.nvim_buf_get_lines(0, 0, -1, true), vim.api.nvim_buf_get_lines(0, 41, 42, true)[1])
    ]]
    assert.equal("100 line 42\n", written .. messages)
  end)

  it("a task may sleep, and a call may be waited for without a task", function()
    local written, messages = in_nvim [[
      local tidepool = require "tidepool"
      local f = tidepool.App("t"):func(function(x) return 2 * x end)
      local task = tidepool.async(function() tidepool.sleep(0.02) return f:remote(4) end)
      out((f:remote(3)))
      until_true(function() return task:done() end)
      out((task:get()))
    ]]
    assert.equal("6\n8\n", written .. messages)
  end)

  it("an error is a failure that pcall gives, in a task and outside of one", function()
    local written, messages = in_nvim [[
      local tidepool = require "tidepool"
      local f = tidepool.App("t"):func(function(x) error("no " .. x, 0) end)
      local function try() return select(2, pcall(function() return f:map({ 7 }):list() end)).message end
      out(try())
      local task = tidepool.async(try)
      until_true(function() return task:done() end)
      out((task:get()))
    ]]
    assert.equal("no 7\nno 7\n", written .. messages)
  end)

  it("what workers print becomes the editor's messages", function()
    local written, messages = in_nvim [[
      local tidepool = require "tidepool"
      local f = tidepool.App("t"):func(function(x) print("worker says " .. x) end)
      local task = tidepool.async(function() f:for_each { 1, 2 } end)
      until_true(function()
        local messages = vim.fn.execute "messages"
        return messages:find "worker says 1" and messages:find "worker says 2"
      end)
    ]]
    assert.equal("", written)
    local lines = {}
    for line in messages:gmatch "[^\r\n]+" do lines[#lines + 1] = line end
    table.sort(lines) -- either worker may be the first
    assert.same({ "worker says 1", "worker says 2" }, lines)
  end)

  it("a failure that nobody reads is shown", function()
    local _, messages = in_nvim [[
      local tidepool = require "tidepool"
      tidepool.async(function() tidepool.sleep(0) error "nobody reads this" end)
      until_true(function() return vim.fn.execute("messages"):find "nobody reads this" end)
    ]]
    assert.matches("tidepool: .*test.lua:%d+: nobody reads this", messages)
  end)

  it("closing the editor with a map running is clean", function()
    local written, messages, exit = in_nvim([[
      local tidepool = require "tidepool"
      local f = tidepool.App("t"):func(function(x) return x end)
      tidepool.async(function()
        for i in f:map(tidepool.range(math.huge)) do
          if i == 1000 then vim.schedule(function() out "quits" vim.cmd "qa!" end) end
        end
      end)
    ]], { stays = true })
    assert.equal("quits\n", written .. messages)
    assert.equal(0, exit)
  end)

  it(":checkhealth tidepool says what works", function()
    local written = in_nvim [[
      vim.cmd "checkhealth tidepool"
      out(table.concat(vim.api.nvim_buf_get_lines(0, 0, -1, true), "\n"))
    ]]
    assert.matches("version %d+%.%d+%.%d+, LuaJIT", written)
    assert.matches("OK:? threads run functions", written)
    assert.matches("OK:? worker processes run functions", written)
  end)

  it("the example plugin fills the quickfix list", function()
    local written, messages = in_nvim [[
      vim.cmd "runtime plugin/tidegrep.vim"
      vim.fn.mkdir(DIR .. "/pro'ject/sub", "p")
      for i = 1, 30 do vim.fn.writefile({ "nothing", "a needle" .. i .. " here" }, ("%s/pro'ject/sub/%02d.txt"):format(DIR, i)) end
      vim.fn.writefile({ "needle\n" }, DIR .. "/pro'ject/binary", "b")
      vim.cmd("Tidegrep needle%d+ " .. DIR .. "/pro'ject")
      until_true(function() return #vim.fn.getqflist() == 30 end)
      local second = vim.fn.getqflist()[2]
      out(vim.fn.fnamemodify(vim.fn.bufname(second.bufnr), ":t"), second.lnum, second.col, second.text)
      local again = require("tidegrep").grep("nothing", DIR .. "/pro'ject")
      until_true(function() return again:done() end)
      out(again:get(), vim.fn.getqflist({ title = 1 }).title)
    ]]
    assert.equal("02.txt 2 3 a needle2 here\n30 tidegrep nothing\n", written)
    assert.matches("tidegrep: 30 lines", messages)
  end)
end)
