--- The reference of the Lua API (not stock): complete, and made from the annotations.

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
      "### tidepool.gpu.device(which)", "## Device", "### device:buffer(what, from)", "## Buffer", "## Kernel",
      "### kernel(global_size, ...)", "### all:add(x)",
    } do
      assert.is_truthy(text:find("\n" .. heading .. "\n", 1, true), heading)
    end
    assert.is_truthy(text:find("| `concurrency_limit` | count |", 1, true))
    assert.is_nil(text:find "### %w+:_")
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
