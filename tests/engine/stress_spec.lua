--- Random programs against their serial meaning: tests/stress.lua; scripts/stress runs more of
-- them. not stock

local support = require "tests.support"

describe("Random programs", function()
  for workers = 1, 5 do
    it(("mean what the plain loops mean on %d worker%s"):format(workers, workers > 1 and "s" or ""), function()
      local dir = support.temp_dir()
      local status = os.execute(("timeout -k 5 800 %s --workers %d tests/stress.lua %d %d >%s/out 2>&1 </dev/null"):format(support.binary, workers,
        1000 * workers, support.times(20), dir))
      local output = support.read_file(dir .. "/out"):gsub("tidepool: [^\n]* never read[^\n]*\n", "") -- programs drop maps, too
      assert.equal("ok\n", output)
      assert.equal(0, status)
    end)
  end
end)
