--- Classes (app:cls): functions that share what they have made once per worker.

local support = require "tests.support"
local tidepool = require "tidepool"

for _, executor in ipairs { "inline", "threads", "processes" } do
  describe("On " .. executor .. " a class", function()
    local app = tidepool.App("classes", { executor = executor })

    local Counter = app:cls {
      enter = function(self)
        self.entered = (self.entered or 0) + 1
        self.calls = 0
        self.sum = self.start or 0
      end,
      add = function(self, x)
        self.calls = self.calls + 1
        self.sum = self.sum + x
        return self.sum, self.entered, self.calls, (tidepool.current() or {}).worker
      end,
      twice = function(self, x) return self:double(x) + (self.start or 0) end,
      double = function(_, x) return 2 * x end,
    }

    it("has its methods run with what enter has made, once per worker, and keeps fields of self between inputs", function()
      local one = Counter { start = 100 }
      local n, calls, sums = 2000, {}, {}
      for i, sum, entered, count, worker in one.add:map(tidepool.range(n)) do
        assert.equal(1, entered)
        assert.is_true(sum >= 100 + i)
        calls[worker] = math.max(calls[worker] or 0, count)
        sums[worker] = math.max(sums[worker] or 0, sum)
      end
      local all, total = 0, 0
      for worker, count in pairs(calls) do
        all = all + count
        total = total + sums[worker] - 100
      end
      assert.equal(n, all)
      assert.equal(n * (n + 1) / 2, total)
    end)

    it("has all that functions have, of each instance for itself", function()
      local a, b = Counter { start = 1 }, Counter()
      assert.same({ 3, 5, 7, n = 3 }, a.twice:map({ 1, 2, 3 }):list())
      assert.same({ 2, 4, 6, n = 3 }, b.twice:map({ 1, 2, 3 }):list())
      assert.equal(11, a.twice:remote(5))
      assert.equal(10, b.twice:spawn(5):get())
      assert.same({ ok = 3, failed = 0 }, a.double:for_each { 1, 2, 3 })
      assert.same({ 9, n = 1 }, a.twice:starmap({ { 4 } }):list())
      assert.equal("Counter.twice", a.twice.name)
      assert.equal(a.twice, a.twice)
      assert.equal(8, a.double:with({ retries = 1 }):remote(4))
    end)

    it("runs here and now when a method is called", function()
      local one = Counter { start = 10 }
      assert.equal(15, (one.add(5)))
      assert.equal(17, (one.add(2)))
      assert.equal(10, one.start)
    end)

    it("may be used by other functions: instances as upvalues, as arguments, and made there", function()
      local one = Counter { start = 7 }
      local captured = app:func(function(x) return one.twice(x), one.start end)
      assert.same({ { 9, 11, n = 2 }, { 7, 7, n = 2 } }, { captured:map({ 1, 2 }):list() })
      local passed = app:func(function(it, x) return it.twice(x) end)
      assert.equal(27, passed:remote(one, 10))
      local made = app:func(function(x) return (Counter { start = x }.twice(x)) end)
      assert.same({ 3, 6, n = 2 }, made:map({ 1, 2 }):list())
      local nested = app:func(function(x) return one.twice:remote(x) end)
      assert.equal(9, nested:remote(1))
    end)

    it("has failures of enter blamed on it, and tried again", function()
      local Broken = app:cls { enter = function(self) error(self.why) end, work = function() return 1 end }
      local failures = Broken { why = "no such model" }.work:map({ 1, 2, 3 }, { return_exceptions = true }):list()
      for i = 1, 3 do
        assert.equal("error", failures[i].kind)
        assert.matches("^enter of Broken: .*class_spec.lua:%d+: no such model", failures[i].message)
        assert.equal(1, failures[i].attempts)
      end
      local path = support.temp_dir() .. "/tries"
      local Late = app:cls { retries = 2 } {
        enter = function(self)
          local file = io.open(self.path, "a+")
          local tries = #file:read "*a" + 1
          file:write "x"
          file:close()
          if tries < 3 then error "not yet" end
          self.tries = tries
        end,
        work = function(self) return self.tries end,
      }
      assert.equal(3, Late { path = path }.work:remote())
    end)

    it("draws the same random numbers whoever enters", function()
      local Noise = app:cls { enter = function(self) self.first = math.random() end, draw = function(self) return math.random(), self.first end }
      math.randomseed(3)
      local plain = app:func(function() return math.random() end):map(tidepool.range(50)):list()
      math.randomseed(3)
      local drawn, first = Noise().draw:map(tidepool.range(50)):list()
      for i = 1, 50 do
        assert.equal(plain[i], drawn[i])
        assert.equal(first[1], first[i])
      end
    end)

    it("keeps errors of methods what they are", function()
      local Odd = app:cls { check = function(_, x) if x % 2 == 0 then error { code = x } end return x end }
      local ok, failure = pcall(function() Odd().check:map({ 1, 3, 4, 5 }):list() end)
      assert.is_false(ok)
      assert.same({ 3, 4 }, { failure.index, failure.value.code })
      assert.equal("Odd.check", failure.function_name)
    end)

    if executor ~= "inline" then
      it("leaves when the script ends, each once where it has entered, and what exit raises is shown", function()
        local done = support.run_script(([[
          local tidepool = require "tidepool"
          local app = tidepool.App("x", { executor = %q })
          local Model = app:cls {
            enter = function(self) print("enter " .. self.name) end,
            exit = function(self) print("exit " .. self.name, self.n) if self.fails then error "cannot close" end end,
            work = function(self, x) self.n = (self.n or 0) + 1 return x end,
          }
          local a, b, c = Model { name = "a" }, Model { name = "b", fails = true }, Model { name = "c" }
          a.work:map({ 1, 2, 3 }):list()
          b.work:remote(1)
          a.work(1)
          tidepool.sleep(0)
          print "end"
        ]]):format(executor), { workers = 1 })
        assert.equal(0, done.code)
        assert.equal("enter a\nenter b\nenter a\nend\nexit a\t1\nexit b\t1\nexit a\t3\n", done.stdout)
        assert.matches("^tidepool: exit of Model: [^\n]*cannot close\n$", done.stderr)
      end)
    end
  end)
end

describe("A class", function()
  local app = tidepool.App "x"
  local Model = app:cls { name = "Model" } { enter = function() end, predict = function(_, x) return x end }

  it("leaves when a worker process is replaced", function()
    local out = support.output_of([[
      local tidepool = require "tidepool"
      local app = tidepool.App("x", { executor = "processes", recycle = 2 })
      local Model = app:cls {
        exit = function(self) print("exit after " .. self.n) end,
        work = function(self, x) self.n = (self.n or 0) + 1 return x end,
      }
      Model().work:map({ 1, 2, 3, 4, 5 }):list()
    ]], { workers = 1 })
    assert.equal("exit after 2\nexit after 2\nexit after 1\n", out)
  end)

  it("says what is wrong where it is made", function()
    local function wrong(fn, ...) support.mistake(fn, ...) end
    wrong(function() app:cls() end, "app:cls: expected options, or a table of methods, got nothing")
    wrong(function() app:cls { retrys = 2 } end, "app:cls: unknown option 'retrys' (did you mean 'retries'?)")
    wrong(function() app:cls { retries = 2 } (5) end, "app:cls: expected a table of methods, got 5")
    wrong(function() app:cls { enter = function() end } end, "there is no method beside enter and exit")
    wrong(function() app:cls { predict = function() end, model = 5 } end, 'a class is a table of functions by their names; the string "model" is 5')
    wrong(function() app:cls { predict = app:func(print), x = print } end, "a Function (decorated already)")
    wrong(function() app:cls { kernel = "double f(double x) { return x; }" } end, "app:cls: option 'kernel' is of app:func")
    wrong(function() app:cls { gpu = true } { f = function() end } end, "with option 'gpu' alone functions are translated")
    wrong(function() app.cls {} end, "app.cls was called with a dot")
  end)

  it("says what is wrong where it is used", function()
    local one = Model { path = "x" }
    support.mistake(function() one:predict(1) end, "Model.predict: a method of an instance is called with a dot: write one.predict(...)")
    support.mistake(function() return Model.predict end, "Model.predict is a method of instances", "one.predict")
    support.mistake(function() Model "x" end, "Model: expected a table of parameters", 'got the string "x"')
    support.mistake(function() Model { predict = 1 } end, "Model: the parameter 'predict' has the name of a method")
    support.mistake(function() Model { path = "x" }.predct:map {} end, "Model has no method or parameter 'predct' (did you mean 'predict'?)")
    support.mistake(function() Model { path = "x" }.enter() end, "Model.enter is called by the workers themselves")
    support.mistake(function() Model {}.path = 5 end, "Model: field 'path' of an instance cannot be set")
    local file = io.tmpfile()
    local Holds = app:cls { work = function() return file end }
    local refused = support.failure_of(function() Holds().work:remote() end)
    support.contains(refused.message, "class_spec.lua:", "Holds.work: ", 'methods.work: upvalue "file": a userdata cannot travel')
    local Self
    local Circle = app:cls { enter = function() return Self.work() end, work = function() return 1 end }
    Self = Circle()
    local ok, failure = pcall(Self.work.remote, Self.work)
    assert.is_false(ok)
    assert.matches("enter of Circle uses the instance that it is to make", failure.message)
  end)

  it("is shown, and its functions are the app's", function()
    assert.equal("tidepool.Class: Model", tostring(Model))
    assert.equal("tidepool.Instance of Model", tostring(Model {}))
    assert.equal(5, app.functions["Model.predict"]:remote(5))
    local named = app:cls { name = "Named" } { get = function() return tidepool.current().function_name end }
    local get = named {}.get:with { retries = 1 }
    assert.equal("tidepool.Function: Named.get", tostring(get))
    assert.equal("Named.get", get:remote())
  end)

  it("is what tidepool run calls", function()
    local dir = support.temp_dir()
    local file = io.open(dir .. "/m.lua", "w")
    file:write [[
      local tidepool = require "tidepool"
      local app = tidepool.App "x"
      local Model = app:cls { enter = function(self) self.k = 3 end, scale = function(self, x, by) return self.k * x * (by or 1) end }
    ]]
    file:close()
    local function run(words)
      local pipe = io.popen(("%s run %s/m.lua::Model.scale %s 2>&1"):format(support.binary, dir, words))
      local text = pipe:read "*a"
      pipe:close()
      return text
    end
    assert.equal("30\n", run "10")
    assert.equal("60\n", run "--x 10 --by 2")
    local out = run "--help"
    assert.matches("%[%-%-x VALUE%] %[%-%-by VALUE%]", out)
    assert.is_nil(out:find "self")
  end)

  it("is finished by the first Ctrl-C, too", function()
    local done = support.run_script([[
      local tidepool = require "tidepool"
      local app = tidepool.App "x"
      local Model = app:cls { exit = function() print "left" end, work = function(_, x) return x end }
      Model().work:map({ 1, 2, 3 }):list()
      os.execute("(sleep 0.1; kill -INT $PPID) </dev/null >/dev/null 2>&1 &")
      while true do tidepool.sleep(0.01) end
    ]], { workers = 1 })
    assert.equal("left\n", done.stdout)
    assert.equal(2, done.signal)
  end)
end)
