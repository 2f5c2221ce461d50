--- LÖVE (not stock): a game's loop lets tasks go on by tidepool.step().

local support = require "tests.support"

--- Runs a game on a screen of its own; what it has printed, and its exit code.
local function play(folder, arguments)
  local command = ("LUA_CPATH='%s/build/module/?.so;;' ALSOFT_DRIVERS=null timeout 400 xvfb-run -a love %s %s 2>&1; echo \" $?\"")
    :format(require("lfs").currentdir(), folder, arguments or "")
  local pipe = assert(io.popen(command))
  local printed, exit = pipe:read("*a"):match "^(.*) (%d+)\n$"
  pipe:close()
  return printed, tonumber(exit)
end

describe("in LÖVE", function()
  if support.sanitized then
    return it("nothing is tested under a sanitizer: the module is not built for it", function() end)
  end

  it("the example's terrain comes from workers while its frames go on", function()
    local printed, exit = play("examples/love", "--once")
    local promised = support.read_file "examples/love/main.lua":match "prints: ([^\n]*\n)"
    assert.equal(promised, printed)
    assert.equal(0, exit)
  end)

  it("what only the game has is named where a mapped function uses it", function()
    local dir = support.temp_dir()
    local function write(name, text)
      local file = assert(io.open(dir .. "/" .. name, "w"))
      file:write(text)
      file:close()
    end
    write("conf.lua", "function love.conf(t) t.modules.audio, t.window = false, false end")
    write("main.lua", [[
      local app = require("tidepool").App "x"
      local f = app:func(function(x) return love.math.noise(x) end)
      print(select(2, pcall(function() return f:map { 1 } :list() end)))
      love.event.quit()
    ]])
    assert.matches('^the game %(module "love"%) is not in workers: use it in the task that runs the map', (play(dir)))
  end)
end)
