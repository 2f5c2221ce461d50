--- The reference of the Lua API (not stock): complete, and made from the annotations.

require "tidepool" -- first: its inner modules are there once it is
local support = require "tests.support"

describe("the reference", function()
  it("has every public function with its parameters", function()
    if support.sanitized then return end -- scripts/reference loads the plain module
    local path = support.temp_dir() .. "/reference.md"
    assert.equal(0, os.execute("scripts/reference --check " .. path))
    local text = support.read_file(path)
    for _, heading in ipairs {
      "## tidepool", "### tidepool.App(name, defaults)", "### tidepool.range(from, to, step)", "## App", "### app:func(given, fn)", "## Function",
      "### f:map(...)", "## Results", "### results:list()", "## Array", "### a:slice(i, j)", "## Failure", "## Options of functions",
      "### tidepool.gpu.device(which)", "## tidepool.int", "### tidepool.int.mul32(a, b)",
      "## Device", "### device:buffer(what, from)", "## Buffer", "## Kernel",
      "### kernel(global_size, ...)", "### all:add(x)",
    } do
      assert.is_truthy(text:find("\n" .. heading .. "\n", 1, true), heading)
    end
    assert.is_truthy(text:find("| `concurrency_limit` | count |", 1, true))
    -- an annotation that goes on in the next lines
    assert.is_truthy(text:find('as "," does, where a field may be in quotes as CSV has it; how long a line may be ("16M")', 1, true))
    assert.is_nil(text:find "### %w+:_")
    local help, n = require "tidepool.program.help", 0
    for line in text:gmatch "[^\n]+" do
      local name = line:match "^### .-[.:]([%w_]+)%(" or line:match "^| `([%w_]+)` |"
      if name then
        n = n + 1
        assert.is_nil(help.text(name):find "^There is no", line)
      end
    end
    assert.is_true(n > 60)
  end)

  it("is refused when something public is not described", function()
    if support.sanitized then return end
    local dir = support.temp_dir()
    assert.equal(0, os.execute(("mkdir -p %s/scripts %s/build && cp -r lua gpu %s && cp scripts/reference %s/scripts && cp -r build/module %s/build")
      :format(dir, dir, dir, dir, dir)))
    assert.equal(0, os.execute(("printf -- '---@class tidepool.Stray\\n' >>%s/lua/tidepool/app.lua"):format(dir)))
    assert.equal(0, os.execute(("sed -i '/^--- Takes over another/d; s/^---@param other tidepool.App/--/' %s/lua/tidepool/app.lua"):format(dir)))
    local pipe = io.popen(("%s/scripts/reference /dev/null 2>&1"):format(dir))
    local said = pipe:read "*a"
    pipe:close()
    assert.matches("app:include has no description", said, 1, true)
    assert.matches("tidepool.Stray: the class has no place", said, 1, true)
    assert.matches("app:include: parameter other has no %-%-%-@param", said)
  end)
end)

describe("a method of Results", function()
  local results = require "tidepool.results"
  local class = results.Results

  after_each(function() class.histogram, results.methods.histogram = nil, nil end)

  it("is refused where it is published with other parameters than it has", function()
    function class.histogram(_, bins, from, to) return bins, from, to end
    assert.error_matches(function() results.publish("histogram", 2, "bins, from") end,
      "Results:histogram has 3 parameters beside self, and is published with 2", 1, true)
    function class.histogram(_, ...) return ... end
    assert.error_matches(function() results.publish("histogram", 0) end, "Results:histogram has `...` and 0 parameters", 1, true)
    function class.histogram(_, a, b, c, d) return a, b, c, d end
    assert.error_matches(function() results.publish("histogram", 4, "a, b, c, d") end, "at most 3", 1, true)
  end)

  it("may have three", function()
    function class.histogram(_, bins, from, to) return bins, from, to end
    results.publish("histogram", 3, "bins, from, to")
    local tidepool = require "tidepool"
    local done = tidepool.App "three":func(function(x) return x end):map { 1 }
    assert.same({ 7, 8, 9 }, { done:histogram(7, 8, 9) })
    assert.has_error(function() done:histogram(7, 8, 9, 10) end)
    done:list()
  end)
end)

describe("the rockspec", function()
  it("installs the module", function()
    local rock = {}
    setfenv(assert(loadfile "tidepool-scm-1.rockspec"), rock)()
    assert.equal("tidepool", rock.package)
    assert.equal("MIT", rock.description.license)
    if support.sanitized then return end
    local dir = support.temp_dir()
    assert.equal(0, os.execute(("make -s %s && make -s %s LUA_LIBDIR=%s"):format(rock.build.build_target, rock.build.install_target, dir)))
    local pipe = io.popen(("LUA_CPATH='%s/?.so' luajit -e 'print(require(\"tidepool\")._VERSION)'"):format(dir))
    assert.equal(require("tidepool")._VERSION, pipe:read "*l")
    pipe:close()
  end)
end)
